package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/podtoken/podtoken/internal/servertest"
	"github.com/podtoken/podtoken/internal/tokenrequest/fakeapi"
)

// receiver is an application that is POSTed to.
type receiver struct {
	mu     sync.Mutex
	bodies []string
	status int
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	content, _ := io.ReadAll(request.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bodies = append(r.bodies, request.Method+" "+request.URL.String()+" "+string(content))
	w.WriteHeader(r.status)
}

func (r *receiver) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.bodies)
}

// TestNotify: a real server hears of the first files, of a refresh, and of nothing else; what it hears has no token.
func TestNotify(t *testing.T) {
	t.Parallel()
	application := &receiver{status: http.StatusNoContent}
	server := httptest.NewServer(application)
	defer server.Close()
	p := newPod(t)
	p.flags = []string{"--notify=" + strings.Replace(server.URL, "127.0.0.1", "localhost", 1) + "/-/reload"}
	const both = `POST /-/reload {"tokens":["billing","vault"]}`
	wantHeard := func(want ...string) {
		t.Helper()
		p.eventually(fmt.Sprintf("%q is heard", want), func() bool { return len(application.got()) >= len(want) })
		if got := application.got(); !slices.Equal(got, want) {
			t.Fatalf("heard %q, want %q", got, want)
		}
	}
	p.start(vault, billing)
	wantHeard(both)
	p.eventually("the first success is logged", func() bool {
		return hasLine(p.log.String(), []string{`"level":"INFO","msg":"Application told"`, `"kind":"http"`, `/-/reload"`, `"tokens":["billing","vault"]`})
	})

	// Files that are kept after a restart did not change.
	p.stop(syscall.SIGTERM)
	p.start(vault, billing)
	p.eventually("both files are kept", func() bool { return strings.Count(p.log.String(), `"msg":"Token kept"`) == 2 })
	if code, _, stderr := p.command("refresh", "--dir="+p.dir); code != 0 {
		t.Fatalf("refresh: %s", stderr)
	}
	wantHeard(both, both)
	_, _ = p.output.Write([]byte(strings.Join(application.got(), "\n")))
	p.wantNoSecrets()
}

// TestNotifyFails: neither an application that is not there nor one that answers with an error or a redirect delays
// anything, and the end does not wait for them.
func TestNotifyFails(t *testing.T) {
	t.Parallel()
	elsewhere := &receiver{status: http.StatusOK}
	other := httptest.NewServer(elsewhere)
	defer other.Close()
	redirecting := httptest.NewServer(http.RedirectHandler(other.URL+"/x", http.StatusTemporaryRedirect))
	defer redirecting.Close()
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer hanging.Close()
	for name, c := range map[string]struct{ url, log string }{
		"nobody listens": {fmt.Sprintf("http://localhost:%d/", servertest.FreePort(t)), `"level":"INFO","msg":"Application is not there yet, telling it later"|"tokens":["vault"]|connection refused`},
		"a redirect":     {redirecting.URL, `"level":"WARN","msg":"Telling the application failed"|"error":"it answered HTTP 307, and redirects are not followed: give the URL that answers 2xx itself"`},
		"no answer":      {hanging.URL, `"msg":"Token written"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			p.flags = []string{"--notify=" + c.url}
			p.start(vault)
			p.eventually("the token is there", func() bool { return p.exists("vault") })
			p.eventually("log "+c.log, func() bool { return hasLine(p.log.String(), strings.Split(c.log, "|")) })
			if code, _, stderr := p.command("refresh", "--dir="+p.dir); code != 0 {
				t.Errorf("refresh: %s", stderr)
			}
			begun := time.Now()
			if code := p.stop(syscall.SIGTERM); code != 0 || time.Since(begun) > 3*time.Second {
				t.Errorf("exit code %d after %s", code, time.Since(begun))
			}
			p.wantNoSecrets()
		})
	}
	if got := elsewhere.got(); len(got) != 0 {
		t.Errorf("the redirect was followed: %q", got)
	}
}

// TestNotifySignal: a real process gets the signal, but not for files that were there when it started.
func TestNotifySignal(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("app-%d", os.Getpid())
	// It takes the name when it can take the signal, which would end it before.
	script := fmt.Sprintf("trap 'echo HUP' HUP; printf %s > /proc/$$/comm; echo started; while :; do sleep 0.05; done", name)
	p := newPod(t)
	p.flags = []string{"--notify-signal=SIGHUP:" + name}
	p.start(vault)
	p.eventually("nobody is there yet", func() bool {
		return hasLine(p.log.String(), []string{`"level":"INFO","msg":"Application is not there yet, telling it later"`, `"kind":"signal"`, `"target":"SIGHUP:` + name + `"`, `"error":"no process \"` + name})
	})

	application := exec.Command("/bin/sh", "-c", script)
	output, err := application.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := application.Start(); err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 16)
	go func() {
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			heard <- scanner.Text()
		}
		close(heard)
	}()
	defer func() {
		_ = application.Process.Kill()
		_ = application.Wait()
	}()
	wantHeard := func(want string) {
		t.Helper()
		select {
		case got := <-heard:
			if got != want {
				t.Fatalf("the application says %q, want %q\n%s", got, want, p.log)
			}
		case <-time.After(70 * time.Second): // It may have to be 30 s old, and the delay between two attempts may be as long.
			t.Fatalf("the application does not say %q\n%s", want, p.log)
		}
	}
	wantHeard("started")
	// It has read the new files itself, and a signal before it is prepared would end it.
	p.eventually("it needs no signal", func() bool {
		return hasLine(p.log.String(), []string{`"msg":"Application needs not be told"`, `"reason":"process \"` + name + `\" started after the change"`})
	})
	if code, _, stderr := p.command("refresh", "--dir="+p.dir); code != 0 {
		t.Fatalf("refresh: %s", stderr)
	}
	wantHeard("HUP")
	p.wantNoSecrets()
}

// ask sends a request to the port; status 0 is no answer.
func ask(method string, port int, path string, body io.Reader) (status int, text string) {
	request, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), body)
	if err != nil {
		return 0, err.Error()
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(content)
}

func TestMetricsAndHealth(t *testing.T) {
	t.Parallel()
	port := servertest.FreePort(t)
	p := newPod(t)
	p.flags = []string{fmt.Sprintf("--metrics-port=%d", port)}
	p.server.Handle(fakeapi.Refuse(403, "Forbidden", `serviceaccounts "cart" is forbidden`))
	p.start(vault, billing)
	wantAnswer := func(path string, status int, parts ...string) {
		t.Helper()
		p.eventually(fmt.Sprintf("%s answers %d with %q", path, status, parts), func() bool {
			got, text := ask("GET", port, path, nil)
			_, _ = p.output.Write([]byte(text))
			all := got == status
			for _, part := range parts {
				all = all && strings.Contains(text, part)
			}
			return all
		})
	}
	wantAnswer("/healthz", 200, "ok\n")
	wantAnswer("/readyz", 503, "token \"vault\" does not exist yet\ntoken \"billing\" does not exist yet\n")
	wantAnswer("/metrics", 200, `podtoken_sidecar_token_expiry_timestamp_seconds{token="vault"} 0`+"\n")
	p.eventually("a refusal is counted", func() bool {
		_, text := ask("GET", port, "/metrics", nil)
		return strings.Contains(text, `token_failures_total{token="vault",class="Forbidden"} `) &&
			!strings.Contains(text, `token_failures_total{token="vault",class="Forbidden"} 0`)
	})
	p.server.Handle(nil)
	wantAnswer("/readyz", 200, "ok\n")

	_, claims, _ := p.token("vault")
	wantAnswer("/metrics", 200,
		fmt.Sprintf("podtoken_sidecar_token_expiry_timestamp_seconds{token=%q} %d\n", "vault", claims.Expires.Unix()),
		`podtoken_sidecar_token_asked_lifetime_seconds{token="vault"} 3600`+"\n",
		`podtoken_sidecar_token_granted_lifetime_seconds{token="vault"} 3600`+"\n",
		`podtoken_sidecar_token_refreshes_total{token="billing",cause="Missing"} 1`+"\n",
		`podtoken_sidecar_token_refreshes_total{token="billing",cause="Scheduled"} 0`+"\n",
		`podtoken_sidecar_build_info{version="v0.0.0-dev",goversion="go`,
	)
	_, text := ask("GET", port, "/metrics", nil)
	problems, err := promlint.New(bytes.NewReader([]byte(text))).Lint()
	if err != nil || len(problems) != 0 {
		t.Errorf("%v, %v\n%s", err, problems, text)
	}

	// The answer arrives although the sidecar reads nothing of the body.
	if status, text := ask("POST", port, "/metrics", strings.NewReader(strings.Repeat("x", 4000))); status != 405 {
		t.Errorf("HTTP %d: %s", status, text)
	}
	if status, text := ask("HEAD", port, "/readyz", nil); status != 200 || text != "" {
		t.Errorf("HTTP %d: %q", status, text)
	}
	p.wantNoSecrets()
}

// TestMetricsPortTaken: the tokens do not need the port, and it is taken into use when it is free.
func TestMetricsPortTaken(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	p := newPod(t)
	p.flags = []string{fmt.Sprintf("--metrics-port=%d", port)}
	p.start(vault)
	p.eventually("the token is there", func() bool { return p.exists("vault") })
	p.eventually("the port is missed", func() bool {
		return hasLine(p.log.String(), []string{`"level":"WARN","msg":"Metrics port cannot be used, trying again; tokens are refreshed all the same"`, fmt.Sprintf(`"port":%d`, port), "address already in use"})
	})
	_ = listener.Close()
	p.eventually("the port is used", func() bool {
		status, _ := ask("GET", port, "/readyz", nil)
		return status == 200
	})
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
