package release

import (
	"os/exec"
	"strings"
	"testing"
)

// TestReleaseRefusesWhatIsNoVersion: the first thing that is looked at, before anything is built or removed.
func TestReleaseRefusesWhatIsNoVersion(t *testing.T) {
	for _, version := range []string{"", "1.2.3", "v1.2", "v1.2.3.4", "v01.2.3", "v1.2.3-rc.1", "vX.Y.Z", "v1.2.3 ", "v1.2.3\nv1"} {
		out, err := exec.CommandContext(t.Context(), "./release.sh", version).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "want vX.Y.Z") {
			t.Errorf("version %q: got %v, %s", version, err, out)
		}
	}
}
