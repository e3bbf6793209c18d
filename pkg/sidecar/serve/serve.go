// Package serve answers /metrics, /healthz and /readyz of the sidecar on a port of the pod, for those who asked for one.
//
// It only reads: what it says comes from the last Snapshot, and nothing that is asked of it changes anything or says a
// secret. A port that cannot be had, a client that is slow and one that sends nonsense cost the tokens nothing.
//
// Its code is in every pod of podtoken's users. That is why it speaks the least HTTP/1 that Prometheus and the kubelet
// need, one request for each connection: the server of net/http would add a third of a megabyte to each image, and
// HTTP/2, keep-alive and upgrades to what a stranger can try. Do not add requests that do something, or handlers of
// others, as pprof.
package serve

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/notify"
)

const (
	// maxConnections at a time; more wait in the kernel's queue.
	maxConnections = 16
	// maxRequestBytes bounds a request, headers and all.
	maxRequestBytes = 8 << 10
	// connectionTimeout bounds a connection, from the first byte to the last.
	connectionTimeout = 10 * time.Second
	// lingering is how long a client has to close its side, so that the answer is not lost with the connection.
	lingering = 500 * time.Millisecond
	// firstRetry and maxRetry are the delays after which a port that is taken is tried again.
	firstRetry = time.Second
	maxRetry   = time.Minute
	// maxBeatAge: the loop turns at least once a minute.
	maxBeatAge = 5 * time.Minute
)

// Config of a Server.
type Config struct {
	Port    int
	Version string
	Log     *slog.Logger
	// Notifications, if set, gives what is counted of them. It is called concurrently.
	Notifications func() []notify.Count
}

// Server answers for one sidecar. Its methods may be called concurrently.
type Server struct {
	config  Config
	started time.Time
	listen  func(context.Context) (net.Listener, error)
	last    atomic.Pointer[observation]
}

// observation is the last Snapshot, and when it came.
type observation struct {
	at       time.Time
	snapshot sidecar.Snapshot
}

// New prepares a Server; it does no I/O and starts nothing.
func New(c Config) *Server {
	return &Server{config: c, started: time.Now(), listen: func(ctx context.Context) (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(c.Port)))
	}}
}

// Update takes the newest Snapshot, which is also the sign that the loop turns.
func (s *Server) Update(snapshot sidecar.Snapshot) {
	s.last.Store(&observation{at: time.Now(), snapshot: snapshot})
}

// Run answers until ctx ends. When the port cannot be had, or is lost, it tries again for as long as it takes.
func (s *Server) Run(ctx context.Context) {
	log := s.config.Log.With("port", s.config.Port)
	said, delay := "", firstRetry
	for {
		listener, err := s.listen(ctx)
		if err == nil {
			log.Info("Serving metrics")
			said, delay = "", firstRetry
			err = s.serve(ctx, listener)
		}
		if ctx.Err() != nil {
			return
		}
		if err.Error() != said {
			said = err.Error()
			log.Warn("Metrics port cannot be used, trying again; tokens are refreshed all the same", "error", said)
		}
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		delay = min(2*delay, maxRetry)
	}
}

// serve answers on the listener until ctx ends, or the listener fails. It returns when every connection is done.
func (s *Server) serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // Also closes the listener, and the connections that are still open.
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel()
	slots := make(chan struct{}, maxConnections)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		connections.Go(func() {
			defer func() { <-slots }()
			stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
			defer stop()
			defer func() { _ = connection.Close() }()
			s.handle(connection)
		})
	}
}

// handle answers the one request of a connection.
func (s *Server) handle(connection net.Conn) {
	defer func() {
		if r := recover(); r != nil { // Whatever is wrong here, the tokens go on.
			s.config.Log.Error("Answering on the metrics port failed", "panic", fmt.Sprint(r))
		}
	}()
	if connection.SetDeadline(time.Now().Add(connectionTimeout)) != nil {
		return
	}
	limited := &io.LimitedReader{R: connection, N: maxRequestBytes}
	request, err := http.ReadRequest(bufio.NewReaderSize(limited, 1<<10))
	a, head := answer{}, false
	switch {
	case err == nil:
		a, head = s.answer(request.Method, request.URL.Path), request.Method == http.MethodHead
	case limited.N <= 0:
		a = plain(http.StatusRequestHeaderFieldsTooLarge, "a request has at most "+strconv.Itoa(maxRequestBytes)+" bytes")
	case errors.Is(err, io.EOF) || isNetError(err):
		return // Nobody is there any more, or nothing came.
	default:
		a = plain(http.StatusBadRequest, "this is not an HTTP/1 request")
	}
	if _, err := connection.Write(a.bytes(head)); err != nil {
		return
	}
	// Closing a connection with unread bytes resets it, and the client may lose the answer.
	if half, ok := connection.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = connection.SetReadDeadline(time.Now().Add(lingering))
		_, _ = io.CopyN(io.Discard, connection, maxRequestBytes)
	}
}

func isNetError(err error) bool {
	_, is := errors.AsType[net.Error](err)
	return is
}

// answer is what is said to a request.
type answer struct {
	status      int
	contentType string
	body        []byte
}

func plain(status int, text string) answer {
	return answer{status, "text/plain; charset=utf-8", []byte(text + "\n")}
}

func (a answer) bytes(head bool) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n",
		a.status, http.StatusText(a.status), time.Now().UTC().Format(http.TimeFormat), a.contentType, len(a.body))
	if a.status == http.StatusMethodNotAllowed {
		b.WriteString("Allow: GET, HEAD\r\n")
	}
	b.WriteString("Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n")
	if !head {
		b.Write(a.body)
	}
	return b.Bytes()
}

func (s *Server) answer(method, path string) answer {
	if method != http.MethodGet && method != http.MethodHead {
		return plain(http.StatusMethodNotAllowed, "only GET and HEAD are answered")
	}
	switch path {
	case api.PathMetrics:
		return answer{http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", s.metrics()}
	case api.PathHealth:
		return s.health()
	case api.PathReady:
		return s.ready()
	}
	return plain(http.StatusNotFound, "there are "+api.PathMetrics+", "+api.PathHealth+" and "+api.PathReady)
}
