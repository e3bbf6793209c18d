package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/podtoken/podtoken/e2e/cluster"
)

// The suite runs on the version that PODTOKEN_E2E_KUBERNETES names: API server, kubelet and kubectl.
func TestKubernetesVersion(t *testing.T) {
	t.Parallel()
	if !testCluster.Owned() {
		t.Skip("a cluster that is not ours has the version that it has")
	}
	all, err := cluster.Versions("")
	must(t, err, "listing the versions")
	want := all[0].Release
	for _, v := range all {
		if v.Minor == os.Getenv(cluster.EnvKubernetes) {
			want = v.Release
		}
	}
	server, err := client.Discovery().ServerVersion()
	must(t, err, "asking the API server for its version")
	kubelet, err := testCluster.Kubectl(t.Context(), nil, "get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kubeletVersion}")
	must(t, err, "asking the node for its version")
	kubectl, err := testCluster.Kubectl(t.Context(), nil, "version", "--client")
	must(t, err, "asking kubectl for its version")
	kubectl, _, _ = strings.Cut(strings.TrimPrefix(kubectl, "Client Version: "), "\n")
	for what, got := range map[string]string{"the API server": server.GitVersion, "the kubelet": kubelet, "kubectl": kubectl} {
		if got != want {
			t.Errorf("%s has version %q, want %q", what, got, want)
		}
	}
	t.Logf("Kubernetes %s", server.GitVersion)
}
