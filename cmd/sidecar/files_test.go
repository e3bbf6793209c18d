package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// formatted is a token that is read as a header, and a file that has the cluster.
const formatted = `{"name":"vault","audiences":["vault"],"expirationSeconds":3600,"path":".podtoken-token-vault","mode":"0400","refreshAtPercent":80,"files":[` +
	`{"path":"a/header","steps":[{"text":"Authorization: Bearer "},{"value":{"get":".token"}}]},` +
	`{"path":"cluster","steps":[{"value":{"get":".cluster.server"}},{"text":" "},{"value":{"get":".cluster.ca"}},{"value":{"get":".pod.serviceAccount"}}]}]}`

// TestFiles: the real binary makes files of each token, with the cluster that it talks to itself, keeps them through a restart,
// and says their names, not the hidden one.
func TestFiles(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	read := func(path string) string {
		content, _ := os.ReadFile(filepath.Join(p.dir, path))
		return string(content)
	}
	wantFiles := func(tokens int) {
		t.Helper()
		if code, _, stderr := p.command("wait", "--dir="+p.dir); code != 0 {
			t.Fatalf("wait: %d: %s", code, stderr)
		}
		p.eventually("the files are those of the latest token", func() bool {
			issued := p.server.Issued()
			return len(issued) == tokens && read("a/header") == "Authorization: Bearer "+issued[tokens-1] && read(".podtoken-token-vault") == issued[tokens-1]
		})
		if got, want := read("cluster"), "https://"+net.JoinHostPort(p.server.Host, p.server.Port)+" "+string(p.server.CA)+"cart"; got != want {
			t.Errorf("the cluster is %q, want %q", got, want)
		}
	}
	p.start(formatted)
	wantFiles(1)
	if code, stdout, stderr := p.command("refresh", "--dir="+p.dir); code != 0 || !strings.Contains(stdout, "(file a/header cluster, audiences vault, ") {
		t.Errorf("refresh: %d: %s%s", code, stdout, stderr)
	}
	wantFiles(2)
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.start(formatted)
	wantFiles(2)
	p.wantNoSecrets()
	if strings.Contains(p.output.String(), "podtoken-token") {
		t.Errorf("the hidden path was said:\n%s", p.output)
	}
}
