package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podtoken/podtoken/internal/tokenrequest/fakeapi"
)

// phase is a step in the life of a pod: something happens, then something is so.
type phase struct {
	name string
	do   func(p *pod)
	// files that must come to be, as path and mode; each must be the latest that the API server gave.
	files map[string]string
	// absent files.
	absent []string
	// log are lines that must come, each with all parts.
	log []string
	// requests is the number that the API server has seen since the first phase; -1 is not looked at.
	requests int
}

// TestLife runs the real binary through the lives of pods.
func TestLife(t *testing.T) {
	both := map[string]string{"vault": "0400", "deep/er/billing.jwt": "0440"}
	start := func(p *pod) { p.start(vault, billing) }
	wantExit := func(code int, termination string) func(p *pod) {
		return func(p *pod) {
			p.t.Helper()
			if got := p.stop(syscall.SIGTERM); got != code {
				p.t.Errorf("exit code %d, want %d", got, code)
			}
			if got := p.terminationMessage(); got != termination {
				p.t.Errorf("termination message %q, want %q", got, termination)
			}
		}
	}
	for name, phases := range map[string][]phase{
		"the first tokens, and a restart of the container": {
			{name: "start", do: start, files: both, requests: 2, log: []string{
				`"msg":"Starting"|"version":"v0.0.0-dev"|"pod":"cart-6d5f"|"tokens":["vault","billing"]`,
				`"msg":"Token written"|"token":"vault"|"path":"vault"|"audiences":["vault","https://kubernetes.default.svc"]|"cause":"Missing"|"jti":"|"expiresAt":"|"refreshAt":"`,
				`"msg":"Token written"|"token":"billing"`,
			}},
			{name: "SIGTERM", do: wantExit(0, ""), files: both, requests: 2},
			{name: "restart", do: start, files: both, requests: 2, log: []string{
				`"msg":"Token kept"|"token":"vault"|"jti":"`, `"msg":"Token kept"|"token":"billing"`,
			}},
			{name: "killed", do: func(p *pod) {
				p.kill()
				put(p, ".podtoken-tmp-LEFT", "half", 0o600)
				put(p, "deep/er/.podtoken-tmp-LEFT", "half", 0o600)
			}, files: both, requests: 2},
			{name: "restart after a crash", do: start, files: both, requests: 2,
				absent: []string{".podtoken-tmp-LEFT", "deep/er/.podtoken-tmp-LEFT"}},
		},
		"a wrong mode is corrected by writing the file again": {
			{name: "start", do: start, files: both, requests: 2},
			{name: "someone changes it", do: func(p *pod) {
				wantExit(0, "")(p)
				_ = os.Chmod(filepath.Join(p.dir, "vault"), 0o644)
			}, requests: 2},
			{name: "restart", do: start, files: both, requests: 2, log: []string{`"msg":"Token file's mode corrected"|"token":"vault"|"mode":"0400"`}},
		},
		"what is not ours is replaced": {
			{name: "leftovers", do: func(p *pod) {
				put(p, "vault", "not a token", 0o400)
				start(p)
			}, files: both, requests: 2, log: []string{`"msg":"Token file replaced"|"token":"vault"|"problem":"`, `"token":"vault"|"cause":"Unusable"`}},
		},
		"no permission at first": {
			{name: "start", do: func(p *pod) {
				p.server.Handle(fakeapi.Refuse(403, "Forbidden", `serviceaccounts "cart" is forbidden`))
				start(p)
			}, absent: []string{"vault", "deep"}, requests: -1, log: []string{
				`"level":"ERROR"|"msg":"Token not refreshed"|"token":"vault"|"errorClass":"Forbidden"|"error":"Forbidden (HTTP 403): serviceaccounts \"cart\" is forbidden"|"retryAt":"`,
			}},
			{name: "check says why", do: func(p *pod) {
				p.eventually("the status has the error", func() bool {
					code, stdout, _ := p.command("check", "--dir="+p.dir)
					return code == 1 && strings.Count(stdout, "last: Forbidden (HTTP 403): serviceaccounts \"cart\" is forbidden") == 2
				})
			}, requests: -1},
			{name: "wait gives up", do: func(p *pod) {
				code, _, stderr := p.command("wait", "--timeout=50ms", "--dir="+p.dir)
				if code != 1 || !strings.Contains(stderr, `token "vault" does not exist yet: failed `) {
					p.t.Errorf("exit code %d: %s", code, stderr)
				}
			}, requests: -1},
			{name: "granted", do: func(p *pod) {
				p.server.Handle(nil)
				code, _, stderr := p.command("wait", "--dir="+p.dir)
				if code != 0 || stderr != "" {
					p.t.Errorf("exit code %d: %s", code, stderr)
				}
			}, files: both, requests: -1},
			{name: "check is content", do: func(p *pod) {
				code, stdout, _ := p.command("check", "--dir="+p.dir)
				if code != 0 || strings.Count(stdout, " is fresh until ") != 2 {
					p.t.Errorf("exit code %d: %s", code, stdout)
				}
				code, stdout, _ = p.command("check", "--output=json", "--dir="+p.dir)
				if code != 0 || strings.Count(stdout, `"claims":{`) != 2 || strings.Contains(stdout, "eyJ") {
					p.t.Errorf("as JSON: exit code %d: %s", code, stdout)
				}
			}, requests: -1},
			{name: "SIGTERM", do: wantExit(0, ""), files: both, requests: -1},
		},
		"stopped before its tokens exist": {
			{name: "start", do: func(p *pod) {
				p.server.Handle(fakeapi.Refuse(400, "BadRequest", "cannot bind "+fakeapi.Credential("other")))
				start(p)
			}, absent: []string{"vault", "deep"}, requests: 2, log: []string{
				`"token":"vault"|"errorClass":"Configuration"|[redacted]`, `"token":"billing"|"errorClass":"Configuration"`,
			}},
			{name: "SIGTERM", do: wantExit(1,
				`token "vault" was never written: failed 1 times, last: Configuration (HTTP 400 BadRequest): cannot bind [redacted]`+"\n"+
					`token "billing" was never written: failed 1 times, last: Configuration (HTTP 400 BadRequest): cannot bind [redacted]`), requests: 2},
		},
		"somebody asks for a refresh": {
			{name: "start", do: start, files: both, requests: 2},
			{name: "refresh", do: func(p *pod) {
				code, stdout, stderr := p.command("refresh", "--dir="+p.dir)
				if code != 0 || strings.Count(stdout, "is fresh until") != 2 {
					p.t.Errorf("refresh: exit code %d, want 0 and two fresh tokens\n%s%s", code, stdout, stderr)
				}
			}, files: both, requests: 4, log: []string{`"msg":"Token written"|"token":"vault"|"cause":"Asked"`, `"token":"billing"|"cause":"Asked"`}},
			{name: "refresh while the API server refuses", do: func(p *pod) {
				p.server.Handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
				code, _, stderr := p.command("refresh", "--dir="+p.dir, "--timeout=300ms")
				if code != 1 || !strings.Contains(stderr, `token "vault" was not replaced: failed`) {
					p.t.Errorf("refresh: exit code %d, want 1 and the failure\n%s", code, stderr)
				}
			}, requests: -1},
			{name: "refresh of a process that has ended", do: func(p *pod) {
				p.kill()
				code, _, stderr := p.command("refresh", "--dir="+p.dir)
				if code != 1 || !strings.Contains(stderr, "has ended") {
					p.t.Errorf("refresh: exit code %d, want 1 and a word about the process\n%s", code, stderr)
				}
			}, requests: -1},
		},
		"stopped while the API server says nothing": {
			{name: "start", do: func(p *pod) {
				p.server.Handle(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
				start(p)
				p.eventually("the requests came", func() bool { return p.server.Requests() == 2 })
			}, requests: 2},
			{name: "SIGTERM", do: wantExit(1,
				`token "vault" was never written: no answer of the API server yet`+"\n"+`token "billing" was never written: no answer of the API server yet`), requests: 2},
		},
		"the kubelet replaces the credential": {
			{name: "start with an old one", do: func(p *pod) {
				p.server.SetCredential(fakeapi.Credential("second"))
				start(p)
			}, absent: []string{"vault"}, requests: -1, log: []string{`"errorClass":"Unauthorized"|"error":"Unauthorized (HTTP 401): Unauthorized"`}},
			{name: "a new one", do: func(p *pod) {
				third := fakeapi.Credential("third")
				p.server.SetCredential(third)
				p.server.WriteCredential(p.t, p.apiDir, third)
			}, files: both, requests: -1},
		},
		"a folder with something in it is in the way, which is told": {
			{name: "start", do: func(p *pod) {
				_ = os.Mkdir(filepath.Join(p.dir, "vault"), 0o755)
				put(p, "vault/of-somebody", "x", 0o644)
				start(p)
			}, requests: -1, files: map[string]string{"deep/er/billing.jwt": "0440"}, log: []string{
				`"token":"vault"|"errorClass":"File"|"error":"File: writing \"vault\": a folder with something in it is in the way: remove it"`,
			}},
			{name: "it is removed", do: func(p *pod) { _ = os.RemoveAll(filepath.Join(p.dir, "vault")) }, files: both, requests: 2},
		},
		"an empty folder in the way is replaced": {
			{name: "start", do: func(p *pod) {
				_ = os.Mkdir(filepath.Join(p.dir, "vault"), 0o755)
				start(p)
			}, files: both, requests: 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			credential, _ := os.ReadFile(filepath.Join(p.apiDir, "token"))
			for _, phase := range phases {
				t.Log(phase.name)
				phase.do(p)
				for path, mode := range phase.files {
					p.eventually(path+" is a token that was issued, of mode "+mode, func() bool {
						content, err := os.ReadFile(filepath.Join(p.dir, path))
						info, _ := os.Lstat(filepath.Join(p.dir, path))
						return err == nil && fmt.Sprintf("%04o", info.Mode().Perm()) == mode && slices.Contains(p.server.Issued(), string(content))
					})
				}
				for _, line := range phase.log {
					p.eventually("log "+line, func() bool { return hasLine(p.log.String(), strings.Split(line, "|")) })
				}
				for _, path := range phase.absent {
					p.eventually(path+" is not there", func() bool { return !p.exists(path) })
				}
				if n := p.server.Requests(); phase.requests >= 0 && n != phase.requests {
					t.Errorf("%d requests, want %d", n, phase.requests)
				}
			}
			last, _ := os.ReadFile(filepath.Join(p.apiDir, "token"))
			p.wantNoSecrets(string(credential), string(last))
		})
	}
}

func hasLine(text string, parts []string) bool {
	for line := range strings.Lines(text) {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			return true
		}
	}
	return false
}

func put(p *pod, name, content string, mode os.FileMode) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), mode); err != nil {
		p.t.Fatal(err)
	}
}

// TestAReaderNeverSeesAnythingButAFreshToken reads in a tight loop while tokens of two seconds are replaced often.
func TestAReaderNeverSeesAnythingButAFreshToken(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.server.SetLifetime(2 * time.Second)
	var tokens []string
	for i := range 3 {
		tokens = append(tokens, fmt.Sprintf(`{"name":"t%d","audiences":["a"],"expirationSeconds":600,"path":"f/t%d","mode":"0440","refreshAtPercent":20}`, i, i))
	}
	p.start(tokens...)
	for _, path := range []string{"f/t0", "f/t1", "f/t2"} {
		p.eventually(path, func() bool { return p.exists(path) })
	}
	seen := map[string]bool{}
	for reads := 0; len(seen) < 30; reads++ {
		content, claims, mode := p.token([]string{"f/t0", "f/t1", "f/t2"}[reads%3]) // fails when missing, empty, or a part
		if mode != "0440" || claims.Expires.Before(time.Now()) {
			t.Fatalf("read %d: mode %s, expires %s", reads, mode, claims.Expires)
		}
		seen[content] = true
		if reads%1000 == 0 {
			time.Sleep(time.Millisecond) // the other tests need a processor too
		}
	}
	for content := range seen {
		if !slices.Contains(p.server.Issued(), content) {
			t.Error("a token was read that nobody issued")
		}
	}
	p.wantNoSecrets()
}
