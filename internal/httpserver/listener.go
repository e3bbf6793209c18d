package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podtoken/podtoken/internal/sparselog"
)

// Config is what a Listener is made of.
type Config struct {
	// Name is the value of the label listener. Metrics must know it.
	Name    string
	Metrics *Metrics
	Limits  Limits
	// TLS is nil for plain HTTP.
	TLS    *tls.Config
	Logger *slog.Logger
	// Quiet reports whether a failed handshake is worth neither a line in the log nor a count. It may be nil.
	Quiet func(remote net.Addr) bool
}

// Listener accepts every connection at once, and ends others where there are too many.
type Listener struct {
	net.Listener
	config Config
	log    *sparselog.Logger
	start  time.Time
	open   prometheus.Gauge

	mu    sync.Mutex
	queue *queue
}

// NewListener returns a Listener on top of another one.
func NewListener(inner net.Listener, config Config) *Listener {
	return &Listener{
		Listener: inner, config: config, log: sparselog.New(config.Logger), start: time.Now(),
		open: config.Metrics.open.WithLabelValues(config.Name), queue: newQueue(config.Limits),
	}
}

// Accept returns the next connection. It never waits for the caller.
func (l *Listener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := accepted.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(writeBuffer)
	}
	c := newConn(l, accepted, l.config.TLS)
	l.mu.Lock()
	evicted := l.queue.add(&c.entry, addressOf(accepted.RemoteAddr()), l.now())
	l.open.Set(float64(l.queue.size))
	l.mu.Unlock()
	for _, e := range evicted {
		e.conn.wire.drop()
		l.count(e.reason)
		l.log.Warn(context.Background(), "Connection closed to make room for others", slog.String("remoteAddress", e.conn.RemoteAddr().String()),
			slog.String("localAddress", e.conn.LocalAddr().String()), slog.Float64("secondsWithoutRequest", (l.now()-e.since).Seconds()),
			slog.String("reason", e.reason))
	}
	return c, nil
}

// Serve serves the server's requests until the Listener is closed.
func (l *Listener) Serve(server *http.Server) error {
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	server.ConnState = func(c net.Conn, state http.ConnState) {
		if c, ok := c.(*conn); ok && state == http.StateIdle {
			c.header.next()
		}
	}
	return server.Serve(l)
}

type connKey struct{}

// Delivered tells that the caller of a request has delivered what it came for. Its connection makes room for others only
// after those that never did.
func Delivered(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		c.listener.mu.Lock()
		c.listener.queue.deliver(&c.entry, c.listener.now())
		c.listener.mu.Unlock()
	}
}

func (l *Listener) remove(c *conn) {
	l.mu.Lock()
	l.queue.remove(&c.entry)
	l.open.Set(float64(l.queue.size))
	l.mu.Unlock()
}

func (l *Listener) count(reason string) {
	l.config.Metrics.closed.WithLabelValues(l.config.Name, reason).Inc()
}

func (l *Listener) handshakeFailed(c *conn, err error) {
	if errors.Is(err, net.ErrClosed) {
		return // We closed the connection, to make room or at the end, and it failed of that.
	}
	if quiet := l.config.Quiet; quiet != nil && quiet(c.RemoteAddr()) {
		return
	}
	l.count(reasonHandshakeFailed)
	l.log.Warn(context.Background(), "TLS handshake failed", slog.String("remoteAddress", c.RemoteAddr().String()), slog.Any("error", err))
}

// now is the time since the start, by the monotonic clock.
func (l *Listener) now() time.Duration { return time.Since(l.start) }

// writeBuffer bounds what the kernel keeps of an answer that is not read. Beyond that a write waits, until its deadline.
const writeBuffer = 64 << 10

func addressOf(address net.Addr) netip.Addr {
	if tcp, ok := address.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr()
	}
	return netip.Addr{}
}
