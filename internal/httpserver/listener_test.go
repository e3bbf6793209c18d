package httpserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podtoken/podtoken/internal/servertest"
)

// serve runs a server that answers "ok" to requests, all of which count as delivered, and returns its address.
func serve(t *testing.T, config Config, log io.Writer) string {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config.Logger = slog.New(slog.NewJSONHandler(log, nil))
	config.Name = "test"
	if config.Metrics == nil {
		config.Metrics = NewMetrics(prometheus.NewRegistry(), config.Name)
	}
	server := NewServer(Plain(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
		_, _ = io.WriteString(w, "ok")
	})), config.Logger)
	done := make(chan error, 1)
	go func() { done <- NewListener(inner, config).Serve(server) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve() = %v", err)
		}
	})
	return inner.Addr().String()
}

// dialFrom connects from an address of the loopback network.
func dialFrom(t *testing.T, source, address string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	connection, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	_ = connection.SetDeadline(time.Now().Add(20 * time.Second))
	return connection
}

func ask(t *testing.T, connection net.Conn) {
	t.Helper()
	if _, err := io.WriteString(connection, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(response.Body); string(body) != "ok" || err != nil {
		t.Fatalf("%q, %v", body, err)
	}
}

// closed fails unless the server has closed the connection.
func closed(t *testing.T, connection net.Conn, what string) {
	t.Helper()
	n, err := connection.Read(make([]byte, 1))
	if timeout, ok := errors.AsType[net.Error](err); n != 0 || err == nil || ok && timeout.Timeout() {
		t.Errorf("%s is open: %d, %v", what, n, err)
	}
}

// An idle connection that has delivered something outlives silent ones, and a new one always gets in.
func TestRoomIsMade(t *testing.T) {
	var log servertest.Buffer
	address := serve(t, Config{Limits: Limits{Connections: 8, PerAddress: 6}}, &log)
	idle := dialFrom(t, "127.0.0.2", address)
	ask(t, idle)
	var silent []net.Conn
	for range 40 {
		silent = append(silent, dialFrom(t, "127.0.0.3", address))
	}
	ask(t, dialFrom(t, "127.0.0.2", address))
	ask(t, idle)
	for i, connection := range silent[:34] {
		closed(t, connection, fmt.Sprintf("connection %d of forty, with six allowed,", i))
	}
	ask(t, silent[39])
	for _, want := range []string{`"Connection closed to make room for others","remoteAddress":"127.0.0.3:`, `"secondsWithoutRequest":`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %s: %s", want, log.String())
		}
	}
	if lines := strings.Count(log.String(), "\n"); lines > 30 {
		t.Errorf("%d lines in the log", lines)
	}
}

// A header of many short lines costs net/http forty times its length.
func TestHeaderHasFewLines(t *testing.T) {
	address := serve(t, Config{Limits: Limits{Connections: 8, PerAddress: 8}}, io.Discard)
	send := func(lines int, body string) (int, error) {
		connection := dialFrom(t, "127.0.0.1", address)
		for range 2 { // the second one on the same connection
			fmt.Fprintf(connection, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s", len(body), strings.Repeat("a:\r\n", lines-3), body)
			response, err := http.ReadResponse(bufio.NewReader(connection), nil)
			if err != nil {
				return 0, err
			}
			answer, _ := io.ReadAll(response.Body)
			if response.StatusCode != http.StatusOK {
				return response.StatusCode, nil
			}
			if string(answer) != body+"ok" {
				return 0, fmt.Errorf("answer %q", answer)
			}
		}
		return http.StatusOK, nil
	}
	// What is in the body does not count.
	if code, err := send(headerFields, strings.Repeat("a:\r\n", 10*headerFields)); code != http.StatusOK {
		t.Errorf("%d lines: %d, %v", headerFields, code, err)
	}
	if code, err := send(headerFields+1, ""); code != http.StatusBadRequest {
		t.Errorf("%d lines: %d, %v, want 400", headerFields+1, code, err)
	}
}

func TestHeaderCounter(t *testing.T) {
	tests := map[string]struct {
		text string
		want bool
	}{
		"short":                 {"GET / HTTP/1.1\r\nA: b\r\n\r\n", true},
		"bare line feeds":       {"GET / HTTP/1.1\nA: b\n\n" + strings.Repeat("x\n", headerFields), true},
		"many":                  {strings.Repeat("a:\n", headerFields+1), false},
		"empty lines first":     {strings.Repeat("\r\n", headerFields) + "GET / HTTP/1.1\r\n\r\n", false},
		"carriage returns only": {"GET / HTTP/1.1\r\n" + strings.Repeat("\r", 100), true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var whole, bytewise headerCounter
			got := whole.add([]byte(test.text))
			each := true
			for i := range len(test.text) {
				each = each && bytewise.add([]byte{test.text[i]})
			}
			if got != test.want || each != test.want {
				t.Errorf("add() = %t, byte by byte %t, want %t", got, each, test.want)
			}
		})
	}
}

// A longer header than 8 KiB, whatever it is made of, is not read.
func TestHeaderIsSmall(t *testing.T) {
	address := serve(t, Config{Limits: Limits{Connections: 8, PerAddress: 8}}, io.Discard)
	connection := dialFrom(t, "127.0.0.1", address)
	fmt.Fprintf(connection, "GET / HTTP/1.1\r\nHost: x\r\nA: %s", strings.Repeat("a", 8<<10))
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil || response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%v, %v, want 431", response, err)
	}
}

// A ClientHello that never ends is not collected.
func TestHandshakeIsSmall(t *testing.T) {
	source := httptest.NewUnstartedServer(nil)
	source.StartTLS()
	defer source.Close()
	var log servertest.Buffer
	address := serve(t, Config{Limits: Limits{Connections: 8, PerAddress: 8}, TLS: source.TLS}, &log)
	connection := dialFrom(t, "127.0.0.1", address)
	// A handshake message of 64,000 bytes, in records of 16,000.
	record := append([]byte{22, 3, 1, 16004 >> 8, 16004 & 0xff, 1, 0, 64000 >> 8, 64000 & 0xff}, make([]byte, 16000)...)
	for range 4 {
		if _, err := connection.Write(record); err != nil {
			break
		}
	}
	_, _ = io.Copy(io.Discard, connection)
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(log.String(), errHandshakeBytes.Error()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("log: %s", log.String())
		}
	}
	if !strings.Contains(log.String(), `"TLS handshake failed","remoteAddress":"127.0.0.1:`) {
		t.Errorf("log: %s", log.String())
	}
}

// Lines about panics name the caller, too.
func TestPanicIsLogged(t *testing.T) {
	var log servertest.Buffer
	newErrorLog(slog.New(slog.NewJSONHandler(&log, nil))).Print("http: panic serving 192.0.2.1:4711: boom\ngoroutine 1")
	if !strings.Contains(log.String(), `"remoteAddress":"192.0.2.1:4711"`) {
		t.Errorf("log: %s", log.String())
	}
}
