package inherited

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// role makes this test binary start a shell, after a call of Signals or without one.
const role = "PODTOKEN_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "reset":
		Signals()
	}
	command := exec.Command("/bin/sh", "-c", `for s in HUP INT; do trap "echo $s" $s; kill -$s $$; done`)
	command.Stdout = os.Stdout
	if command.Run() != nil {
		os.Exit(1)
	}
}

// A shell that is started by a process of which signals were ignored can trap them after Signals, and not without.
func TestSignals(t *testing.T) {
	for name, c := range map[string]struct{ role, want string }{
		"without": {"plain", ""},
		"with":    {"reset", "HUP INT"},
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.CommandContext(t.Context(), "/bin/sh", "-c", `trap '' HUP INT; exec "$0"`, os.Args[0])
			command.Env = append(os.Environ(), role+"="+c.role)
			output, err := command.CombinedOutput()
			if got := strings.Join(strings.Fields(string(output)), " "); got != c.want || err != nil {
				t.Errorf("the shell trapped %q, want %q (%v)", got, c.want, err)
			}
		})
	}
}
