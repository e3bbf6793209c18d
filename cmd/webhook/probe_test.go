package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// However often the result is asked for, there is one probe at a time, and one in a second.
func TestProbesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p limitedProbe
		started, failure := 0, error(nil)
		proceed := make(chan struct{})
		probe := func(ctx context.Context) error {
			started++
			select {
			case <-proceed:
				return failure
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		results := make(chan error, 100)
		ask := func(ctx context.Context, callers int) {
			for range callers {
				go func() { results <- p.result(ctx, probeTimeout, probe) }()
			}
			synctest.Wait()
		}
		expect := func(when string, callers int, want error, probes int) {
			t.Helper()
			synctest.Wait()
			for range callers {
				if err := <-results; !errors.Is(err, want) {
					t.Fatalf("%s: %v, want %v", when, err, want)
				}
			}
			if len(results) > 0 || started != probes {
				t.Fatalf("%s: %d more results, %d probes, want none and %d", when, len(results), started, probes)
			}
		}

		// The first caller gives up, which is no result for the others.
		impatient, giveUp := context.WithCancel(t.Context())
		ask(impatient, 1)
		ask(t.Context(), 99)
		giveUp()
		expect("a caller gives up", 1, context.Canceled, 1)
		proceed <- struct{}{}
		expect("the probe ends", 99, nil, 1)

		time.Sleep(probeInterval - 1)
		ask(t.Context(), 50)
		expect("in the same second", 50, nil, 1)
		time.Sleep(time.Nanosecond)
		failure = errors.New("broken")
		ask(t.Context(), 50)
		proceed <- struct{}{}
		expect("in the next", 50, failure, 2)
		ask(t.Context(), 50)
		expect("failures are kept too", 50, failure, 2)

		time.Sleep(probeInterval)
		ask(t.Context(), 1)
		expect("a probe that does not end", 1, context.DeadlineExceeded, 3)
		time.Sleep(probeInterval)
		failure = nil
		ask(t.Context(), 1)
		proceed <- struct{}{}
		expect("after it", 1, nil, 4)
	})
}

// countingListener counts connections.
type countingListener struct {
	net.Listener
	accepted atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return connection, err
}

// /readyz costs one handshake in a second, not one for each request.
func TestReadyzHandshakes(t *testing.T) {
	p, args := prepare(t)
	options, err := parseOptions(args, p.log)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(options, p.log)
	if err := errors.Join(s.rules.Load(), s.policy.Load(), s.identity.Load(), s.certificate.Load()); err != nil {
		t.Fatal(err)
	}
	inner, err := new(net.ListenConfig).Listen(t.Context(), "tcp", p.webhook)
	if err != nil {
		t.Fatal(err)
	}
	counting := &countingListener{Listener: inner}
	served := make(chan error, 1)
	go func() { served <- s.newListener(counting).Serve(s.webhook) }()
	defer func() {
		_ = s.webhook.Close()
		<-served
	}()
	begin := time.Now()
	for range 200 {
		w := httptest.NewRecorder()
		s.serveReadyz(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		if w.Code != http.StatusOK {
			t.Fatalf("/readyz: %d %s", w.Code, w.Body)
		}
	}
	most := 1 + int64(time.Since(begin)/probeInterval)
	if n := counting.accepted.Load(); n < 1 || n > most {
		t.Errorf("%d handshakes for 200 requests, want 1 to %d", n, most)
	}
}
