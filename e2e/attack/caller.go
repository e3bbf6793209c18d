package attack

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// answerTimeout is longer than any request lives: the API server gives up a body after 34 s and everything after 60.
	answerTimeout = 70 * time.Second
	// answerLimit is more than the largest answer: a denial that repeats an audience.
	answerLimit = 8 << 20
)

// Caller is who attacks: a credential, and the API server that it is for.
type Caller struct {
	address    string
	roots      *x509.CertPool
	credential string
}

// NewCaller makes a Caller for a server (host:port), whose certificate one of roots has signed.
func NewCaller(address string, roots *x509.CertPool, credential string) *Caller {
	return &Caller{address, roots, credential}
}

// InPod makes a Caller of what a pod finds: its credential in directory, and the API server in its environment.
func InPod(directory string) (*Caller, error) {
	credential, err := os.ReadFile(filepath.Join(directory, "token"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(filepath.Join(directory, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	address := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	return NewCaller(address, roots, strings.TrimSpace(string(credential))), nil
}

// Request is a POST as it is on the wire.
type Request struct {
	// Path with its query, not encoded any further.
	Path string
	// Header fields besides the necessary ones, as "Content-Type: application/json".
	Header []string
	Body   []byte
}

// Do sends a whole request on a connection of its own.
func (c *Caller) Do(ctx context.Context, r Request) (Answer, error) {
	answer, _, err := c.RequestToken(ctx, r)
	return answer, err
}

// RequestToken does what Do does, and also returns the token itself, if one is issued.
func (c *Caller) RequestToken(ctx context.Context, r Request) (answer Answer, token string, err error) {
	x, err := c.dial(ctx)
	if err != nil {
		return Answer{}, "", err
	}
	defer x.close()
	if err := x.send(c.head(r), r.Body); err != nil {
		return Answer{}, "", err
	}
	answer, token, _, err = x.answer()
	return answer, token, err
}

// head is everything before the body.
func (c *Caller) head(r Request) []byte {
	b := &strings.Builder{}
	fmt.Fprintf(b, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nAccept: application/json\r\nContent-Length: %d\r\n", r.Path, c.address, c.credential, len(r.Body))
	for _, field := range r.Header {
		b.WriteString(field + "\r\n")
	}
	b.WriteString("\r\n")
	return []byte(b.String())
}

// connection is a TLS connection that speaks HTTP/1.1, one request after the other.
type connection struct {
	*tls.Conn
	reader *bufio.Reader
}

func (c *Caller) dial(ctx context.Context) (*connection, error) {
	dialer := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 10 * time.Second},
		Config:    &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}},
	}
	conn, err := dialer.DialContext(ctx, "tcp", c.address)
	if err != nil {
		return nil, err
	}
	return &connection{conn.(*tls.Conn), bufio.NewReader(conn)}, nil
}

func (x *connection) close() { _ = x.Close() }

// send writes a part of a request. A server that has answered before it has read everything may have closed the connection for
// writing, and its answer can be read all the same.
func (x *connection) send(parts ...[]byte) error {
	if err := x.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	for _, part := range parts {
		if _, err := x.Write(part); err != nil {
			var closed *net.OpError
			if errors.As(err, &closed) && closed.Op == "write" {
				return nil
			}
			return err
		}
	}
	return nil
}

// answer reads the answer to a request and the token in it, and reports whether the connection can be used again.
func (x *connection) answer() (answer Answer, token string, again bool, err error) {
	response, err := http.ReadResponse(x.reader, nil)
	if err != nil {
		return Answer{}, "", false, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if err != nil {
		return Answer{}, "", false, err
	}
	answer, token = readAnswer(response.StatusCode, body)
	return answer, token, !response.Close, nil
}
