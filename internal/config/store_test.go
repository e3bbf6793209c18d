package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podtoken/podtoken/internal/servertest"
)

const interval = 2 * time.Second

// harness watches one file whose content is good when it begins with "good".
type harness struct {
	store    *Store[string]
	registry *prometheus.Registry
	path     string
	log      bytes.Buffer
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{registry: prometheus.NewRegistry(), path: filepath.Join(t.TempDir(), "file")}
	h.store = newStore(settings[string]{
		noun:  "test",
		paths: []string{h.path},
		parse: func(contents [][]byte) (*string, error) {
			if text := string(contents[0]); strings.HasPrefix(text, "good") {
				return &text, nil
			}
			return nil, errors.New("not good")
		},
		advice:   "make it good",
		describe: func(text *string) []any { return []any{"text", *text} },
	}, h.registry, slog.New(slog.NewTextHandler(&h.log, nil)))
	return h
}

func (h *harness) write(t *testing.T, content string) {
	t.Helper()
	if err := os.WriteFile(h.path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// state is what an observer sees of a Store.
type state struct {
	Current             string
	Successes, Failures float64
	Healthy             float64
	Refusals            int
}

func (h *harness) state(t *testing.T) state {
	t.Helper()
	s := state{Refusals: strings.Count(h.log.String(), "Files refused")}
	if current := h.store.Current(); current != nil {
		s.Current = *current
	}
	values := servertest.Metrics(t, h.registry)
	s.Successes = values[`podtoken_test_reloads_total{result="success"}`]
	s.Failures = values[`podtoken_test_reloads_total{result="failure"}`]
	s.Healthy = values["podtoken_test_last_reload_successful"]
	return s
}

func TestWatch(t *testing.T) {
	type step struct {
		write  string // "" removes the file
		looks  int
		expect state
	}
	tests := map[string][]step{
		"unchanged content does nothing": {
			{"good 1", 3, state{"good 1", 1, 0, 1, 0}},
		},
		"new content is in use after one look": {
			{"good 2", 1, state{"good 2", 2, 0, 1, 0}},
			{"good 3", 1, state{"good 3", 3, 0, 1, 0}},
		},
		"a bad content that is gone at the second look was never there": {
			{"bad", 1, state{"good 1", 1, 0, 1, 0}},
			{"good 2", 1, state{"good 2", 2, 0, 1, 0}},
		},
		"a bad content is refused, counted and logged once": {
			{"bad", 5, state{"good 1", 1, 1, 0, 1}},
			{"good 2", 1, state{"good 2", 2, 1, 1, 1}},
		},
		"each bad content counts": {
			{"bad 1", 2, state{"good 1", 1, 1, 0, 1}},
			{"bad 2", 2, state{"good 1", 1, 2, 0, 2}},
		},
		"a missing file is a bad content": {
			{"", 4, state{"good 1", 1, 1, 0, 1}},
			{"good 2", 1, state{"good 2", 2, 1, 1, 1}},
		},
		"going back to what is in use is a success": {
			{"bad", 2, state{"good 1", 1, 1, 0, 1}},
			{"good 1", 2, state{"good 1", 2, 1, 1, 1}},
		},
		"the same bad content again counts again": {
			{"bad", 2, state{"good 1", 1, 1, 0, 1}},
			{"good 1", 1, state{"good 1", 2, 1, 1, 1}},
			{"bad", 2, state{"good 1", 2, 2, 0, 2}},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t)
				h.write(t, "good 1")
				if err := h.store.Load(); err != nil {
					t.Fatal(err)
				}
				go h.store.Watch(t.Context(), interval)
				for i, step := range steps {
					if step.write == "" {
						if err := os.Remove(h.path); err != nil {
							t.Fatal(err)
						}
					} else {
						h.write(t, step.write)
					}
					time.Sleep(time.Duration(step.looks) * interval) // the bubble's time
					synctest.Wait()
					if diff := cmp.Diff(step.expect, h.state(t)); diff != "" {
						t.Errorf("after step %d (-want +got):\n%s", i, diff)
					}
				}
			})
		})
	}
}

// A problem that Load returned is its caller's to log: Watch does not tell it again.
func TestWatchDoesNotRepeatLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		if err := h.store.Load(); err == nil {
			t.Fatal("Load() of a missing file = nil")
		}
		go h.store.Watch(t.Context(), interval)
		time.Sleep(3 * interval) // the bubble's time
		synctest.Wait()
		if diff := cmp.Diff(state{Failures: 1}, h.state(t)); diff != "" {
			t.Errorf("while it is missing (-want +got):\n%s", diff)
		}
		h.write(t, "good 1")
		time.Sleep(interval)
		synctest.Wait()
		if diff := cmp.Diff(state{Current: "good 1", Failures: 1, Successes: 1, Healthy: 1}, h.state(t)); diff != "" {
			t.Errorf("after it appeared (-want +got):\n%s", diff)
		}
	})
}

// The kubelet swaps the content of a ConfigMap volume by renaming a symlink to a directory.
func TestWatchFollowsSwappedVolumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		root := filepath.Dir(h.path)
		swap := func(directory, content string) {
			if err := os.Mkdir(filepath.Join(root, directory), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, directory, "file"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(directory, filepath.Join(root, "..data_tmp")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(root, "..data_tmp"), filepath.Join(root, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		swap("..1", "good 1")
		if err := os.Symlink("..data/file", h.path); err != nil {
			t.Fatal(err)
		}
		if err := h.store.Load(); err != nil {
			t.Fatal(err)
		}
		go h.store.Watch(t.Context(), interval)
		swap("..2", "good 2")
		time.Sleep(interval)
		synctest.Wait()
		if got := *h.store.Current(); got != "good 2" {
			t.Errorf("current = %q, want %q", got, "good 2")
		}
	})
}

func TestLoadNamesFileProblemAndAdvice(t *testing.T) {
	h := newHarness(t)
	for _, test := range []struct{ content, want string }{
		{"", fmt.Sprintf("reading %q: open %s: no such file or directory; make it good", h.path, h.path)},
		{"bad", fmt.Sprintf("reading %q: not good; make it good", h.path)},
	} {
		if test.content != "" {
			h.write(t, test.content)
		}
		if err := h.store.Load(); err == nil || err.Error() != test.want {
			t.Errorf("Load() = %v, want %s", err, test.want)
		}
	}
	if h.store.Current() != nil {
		t.Error("a bad first content is in use")
	}
}

func TestCertificate(t *testing.T) {
	directory := t.TempDir()
	registry := prometheus.NewRegistry()
	certificate := NewCertificate(directory, registry, slog.New(slog.DiscardHandler))

	if _, err := certificate.GetCertificate(nil); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("GetCertificate() before the first = %v, want %v", err, ErrNoCertificate)
	}
	if err := certificate.Load(); err == nil {
		t.Error("Load() of an empty directory = nil")
	}

	first, firstKey := newPair(t, 1)
	_, otherKey := newPair(t, 2)
	writePair(t, directory, first, firstKey)
	if err := certificate.Load(); err != nil {
		t.Fatal(err)
	}
	if got := servertest.Metrics(t, registry)["podtoken_certificate_expiry_timestamp_seconds"]; got != float64(notAfter.Unix()) {
		t.Errorf("expiry = %v, want %v", got, notAfter.Unix())
	}
	if got := servertest.Metrics(t, registry)["podtoken_certificate_start_timestamp_seconds"]; got != float64(notBefore.Unix()) {
		t.Errorf("start = %v, want %v", got, notBefore.Unix())
	}

	writePair(t, directory, first, otherKey)
	if err := certificate.Load(); err == nil {
		t.Error("Load() of a certificate with another's key = nil")
	}
	if pair, err := certificate.GetCertificate(&tls.ClientHelloInfo{}); err != nil || pair.Leaf.SerialNumber.Int64() != 1 {
		t.Errorf("GetCertificate() after a bad pair = %v, %v, want the first", pair, err)
	}
}

var (
	notBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
)

func newPair(t *testing.T, serial int64) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: notBefore, NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func writePair(t *testing.T, directory string, certificate, key []byte) {
	t.Helper()
	for name, content := range map[string][]byte{"tls.crt": certificate, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(directory, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
