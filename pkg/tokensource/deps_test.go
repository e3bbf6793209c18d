package tokensource

import (
	"os/exec"
	"strings"
	"testing"
)

// allowed is what an application that reads a file may be made to link, besides the standard library.
var allowed = []string{"golang.org/x/oauth2", "github.com/podtoken/podtoken/pkg/sidecar/jwt", "github.com/podtoken/podtoken/pkg/tokensource"}

func TestDependencies(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(output))
	for _, dependency := range linked {
		ok := false
		for _, prefix := range allowed {
			ok = ok || dependency == prefix || strings.HasPrefix(dependency, prefix+"/")
		}
		if !ok {
			t.Errorf("%s is linked: applications that only read a file would pay for it", dependency)
		}
	}
	if len(linked) < 3 {
		t.Errorf("only %q were looked at", linked)
	}
}
