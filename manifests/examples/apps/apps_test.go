// Package apps runs the example applications.
package apps

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podtoken/podtoken/internal/atomicfile"
	"github.com/podtoken/podtoken/internal/servertest"
)

// file is the token's place: in a folder of its own, as with podtoken.dev/path.
const file = "partners/vault"

// everySeconds is the pause between two calls of an application.
const everySeconds = "0.05"

// service is what an application calls. It keeps the headers that came.
type service struct {
	*httptest.Server
	mu      sync.Mutex
	headers []string
}

func newService(t *testing.T) *service {
	s := &service{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.headers = append(s.headers, r.Header.Get("Authorization"))
	}))
	t.Cleanup(s.Close)
	return s
}

// calls returns the headers of all calls so far.
func (s *service) calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.headers...)
}

func eventually(t *testing.T, what string, said *servertest.Buffer, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s. The application says:\n%s", what, said)
		}
	}
}

// newToken is something like a token, of no fixed length: a part of one is none.
func newToken() string {
	return "eyJhbGciOiJub25lIn0." + strings.Repeat(rand.Text(), 40) + "." + rand.Text()
}

// build compiles the program in Go.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "app")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./go").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return program
}

// environment is that of an application in a pod, and nothing of the test's: curl and Python would call 127.0.0.1 by way of a proxy, and
// messages of the C library are translated.
func environment(t *testing.T) []string {
	t.Helper()
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8"}
}

// commands start the applications.
var commands = map[string]func(t *testing.T) []string{
	"go":     func(t *testing.T) []string { return []string{build(t)} },
	"python": func(*testing.T) []string { return []string{"python3", "python/app.py"} },
	"node":   func(*testing.T) []string { return []string{"node", "node/app.mjs"} },
	"shell":  func(*testing.T) []string { return []string{"sh", "shell/app.sh"} },
}

// Each folder has its application in the test.
func TestEveryApplicationIsTested(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() && commands[entry.Name()] == nil {
			t.Errorf("no test starts the application in %s", entry.Name())
		}
	}
}

// Each application runs while its file is replaced by the sidecar's own code. It uses the new token with the next call, is
// never seen with anything but a complete one, notices every change, and shows the token to nobody.
func TestApplications(t *testing.T) {
	for name, command := range commands {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := command(t)
			dir := t.TempDir()
			files, err := atomicfile.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = files.Close() }()
			write := func(token string) {
				t.Helper()
				if _, err := files.Write(file, []byte(token), 0o400); err != nil {
					t.Fatal(err)
				}
			}
			token := newToken()
			write(token)
			issued := map[string]bool{"Bearer " + token: true}

			called, said := newService(t), &servertest.Buffer{}
			app := exec.CommandContext(t.Context(), args[0], args[1:]...)
			app.Env = append(environment(t), "VAULT_TOKEN_FILE="+filepath.Join(dir, file), "SERVICE_URL="+called.URL, "EVERY_SECONDS="+everySeconds)
			app.Stdout, app.Stderr = said, said
			app.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := app.Start(); err != nil {
				t.Fatalf("%v: hack/test-tools.sh installs what this test needs", err)
			}
			defer func() {
				_ = syscall.Kill(-app.Process.Pid, syscall.SIGKILL) // the shell's children, too
				_ = app.Wait()
			}()
			uses := func(token string) func() bool {
				return func() bool {
					all := called.calls()
					return len(all) > 0 && all[len(all)-1] == "Bearer "+token
				}
			}
			eventually(t, "the first call", said, uses(token))

			const changes = 5
			for range changes {
				token = newToken()
				issued["Bearer "+token] = true
				write(token)
				before := len(called.calls())
				eventually(t, "two calls after a change", said, func() bool { return len(called.calls()) >= before+2 })
				// The first of them may have read the file before the change.
				if last := called.calls()[before+1]; last != "Bearer "+token {
					t.Errorf("the second call after a change has another token")
				}
			}
			eventually(t, "every change was noticed", said, func() bool { return strings.Count(said.String(), "the token has changed") >= changes })

			// Somebody who replaces the file without a pause.
			seen := len(called.calls())
			for len(called.calls()) < seen+20 {
				token = newToken()
				issued["Bearer "+token] = true
				write(token)
				time.Sleep(time.Millisecond)
			}
			eventually(t, "the last token", said, uses(token))

			for i, header := range called.calls() {
				if !issued[header] {
					t.Errorf("call %d came with %d bytes that are no token that was ever in the file", i, len(header))
				}
			}
			if text := said.String(); strings.Contains(text, "eyJ") || strings.Contains(text, "failed") || !strings.Contains(text, "the service answered 200") {
				t.Errorf("the application shows a token, or a call failed:\n%.2000s", text)
			}
		})
	}
}

// An application that starts before its token exists (podtoken.dev/wait: "false") says so, and never calls without one.
func TestApplicationsWithoutAFile(t *testing.T) {
	for name, command := range commands {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args, called, said := command(t), newService(t), &servertest.Buffer{}
			app := exec.CommandContext(t.Context(), args[0], args[1:]...)
			app.Env = append(environment(t), "VAULT_TOKEN_FILE="+filepath.Join(t.TempDir(), "vault"), "SERVICE_URL="+called.URL, "EVERY_SECONDS="+everySeconds)
			app.Stdout, app.Stderr = said, said
			if err := app.Start(); err != nil {
				t.Fatalf("%v: hack/test-tools.sh installs what this test needs", err)
			}
			eventually(t, "the application says that there is no file", said, func() bool {
				text := strings.ToLower(said.String())
				return strings.Contains(text, "no such file")
			})
			_ = app.Process.Kill()
			_ = app.Wait()
			if n := len(called.calls()); n > 0 {
				t.Errorf("it called %d times without a token", n)
			}
		})
	}
}
