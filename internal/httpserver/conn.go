package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// What a caller may cost before there is a request.
const (
	// handshakeBytes bounds what is read for it: crypto/tls takes 64 KiB for most messages and 256 KiB for a client's
	// certificates. A ClientHello has less than 2 KiB, a chain of certificates a few.
	handshakeBytes = 32 << 10
	// headerFields is the largest number of lines in a header. Each costs net/http some hundred bytes, whatever its length,
	// so that 8 KiB of the shortest are 300 KiB. API servers send ten.
	headerFields = 64
)

var (
	errHandshakeBytes = errors.New("the TLS handshake is too long")
	errHeaderFields   = errors.New("the header has too many lines")
)

// conn is a connection of a Listener. With TLS it has the handshake in its first Read, in the time that net/http gives the first header. The
// first request may come later: its header has that time from its first byte on.
type conn struct {
	net.Conn // the one that net/http reads from and writes to: tls, or wire
	listener *Listener
	entry    entry
	wire     *wire
	tls      *tls.Conn // nil without TLS

	handshake    sync.Once
	handshakeErr error
	header       headerCounter
	begun        bool // something of the first request has come
}

func newConn(l *Listener, accepted net.Conn, config *tls.Config) *conn {
	c := &conn{listener: l, wire: &wire{Conn: accepted}}
	c.Conn = c.wire
	if config != nil {
		c.wire.bounded, c.wire.left = true, handshakeBytes
		c.tls = tls.Server(c.wire, config)
		c.Conn = c.tls
	}
	c.entry.conn = c
	return c
}

// shakeHands does what is left of the handshake.
func (c *conn) shakeHands() error {
	if c.tls == nil {
		return nil
	}
	c.handshake.Do(func() {
		_ = c.wire.SetWriteDeadline(time.Now().Add(headerTimeout))
		c.handshakeErr = c.tls.HandshakeContext(context.Background())
		if c.handshakeErr != nil {
			c.listener.handshakeFailed(c, c.handshakeErr)
			return
		}
		c.wire.bounded = false
		_ = c.wire.SetWriteDeadline(time.Time{})
	})
	return c.handshakeErr
}

func (c *conn) Read(p []byte) (int, error) {
	if err := c.shakeHands(); err != nil {
		return 0, err
	}
	n, err := c.readBegin(p)
	if !c.header.add(p[:n]) {
		return 0, errHeaderFields
	}
	return n, err
}

// readBegin reads. For the first bytes of all it waits as long as for those of a later request; the deadline of the first header
// begins then.
func (c *conn) readBegin(p []byte) (int, error) {
	if c.begun {
		return c.Conn.Read(p)
	}
	if err := c.Conn.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.begun = true
		_ = c.Conn.SetReadDeadline(time.Now().Add(headerTimeout))
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.shakeHands(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// CloseWrite has net/http end a connection so that the client sees the last answer.
func (c *conn) CloseWrite() error {
	if c.tls != nil {
		return c.tls.CloseWrite()
	}
	if closer, ok := c.wire.Conn.(interface{ CloseWrite() error }); ok {
		return closer.CloseWrite()
	}
	return nil
}

func (c *conn) Close() error {
	c.listener.remove(c)
	return c.Conn.Close()
}

// wire is what lies below TLS.
type wire struct {
	net.Conn
	bounded bool // in the handshake
	left    int  // bytes that may be read for it
	reset   atomic.Bool
}

func (w *wire) Read(p []byte) (int, error) {
	if !w.bounded {
		return w.Conn.Read(p)
	}
	if w.left == 0 {
		return 0, errHandshakeBytes
	}
	n, err := w.Conn.Read(p[:min(len(p), w.left)])
	w.left -= n
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.reset.Store(true)
	}
	return n, err
}

// Close leaves nothing to the kernel that the caller refuses to read: it would be kept until the kernel gives up.
func (w *wire) Close() error {
	if w.reset.Load() {
		w.drop()
		return nil
	}
	return w.Conn.Close()
}

// drop ends the connection at once.
func (w *wire) drop() {
	if tcp, ok := w.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = w.Conn.Close()
}

// headerCounter counts the lines of a request's header in what is read.
type headerCounter struct {
	lines   int
	started bool // there was something but empty lines
	text    bool // there is something in this line
	over    bool // the header has ended; what follows is the body
}

// next is called when a request was answered.
func (h *headerCounter) next() { *h = headerCounter{} }

// add reports whether the header still has few lines.
func (h *headerCounter) add(p []byte) bool {
	if h.over {
		return true
	}
	for _, b := range p {
		switch {
		case b == '\n' && h.started && !h.text:
			h.over = true
			return true
		case b == '\n':
			h.lines++
			h.text = false
		case b != '\r':
			h.text, h.started = true, true
		}
		if h.lines > headerFields {
			return false
		}
	}
	return true
}
