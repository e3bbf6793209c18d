package e2e

import (
	"strings"
	"testing"
)

// `helm test` says whether the installation works: it runs a pod with a token.
func TestHelmTest(t *testing.T) {
	t.Parallel()
	out, err := testCluster.Helm(t.Context(), "test", "podtoken", "--namespace", releaseNamespace, "--timeout", "2m")
	must(t, err, "running helm test")
	if !strings.Contains(out, "Succeeded") {
		t.Errorf("helm test says\n%s", out)
	}
}
