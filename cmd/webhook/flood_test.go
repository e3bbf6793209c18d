package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	sources     = 20              // addresses that they come from
	comeBack    = 5 * time.Second // about when those that were thrown out are back
	honestLimit = time.Second     // within which an honest review is answered
	// containerBytes is the memory limit of the container in the chart's values, of which Go's memory limit is four fifths.
	containerBytes = 128 << 20
)

// stranger attacks on one connection, until it is over or the server ends it. It must not close what it can hold.
type stranger func(connection net.Conn) error

// overTLS is a stranger that shakes hands first.
func overTLS(attack func(connection net.Conn) error) stranger {
	return func(connection net.Conn) error {
		secure := tls.Client(connection, &tls.Config{InsecureSkipVerify: true})
		if err := secure.Handshake(); err != nil {
			return err
		}
		return attack(secure)
	}
}

// hold waits until the server ends the connection.
func hold(connection net.Conn) error {
	_, err := io.Copy(io.Discard, connection)
	return errors.Join(err, io.EOF)
}

// drip sends a byte every ten milliseconds, for ever.
func drip(next func(i int) byte) func(net.Conn) error {
	return func(connection net.Conn) error {
		for i := 0; ; i++ {
			if _, err := connection.Write([]byte{next(i)}); err != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// say sends a text at once and goes on with the next attack.
func say(text string, next func(net.Conn) error) func(net.Conn) error {
	return func(connection net.Conn) error {
		if _, err := io.WriteString(connection, text); err != nil {
			return err
		}
		return next(connection)
	}
}

const jsonHeader = "POST /mutate?timeout=30s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

// manyLines is a header of the shortest lines, which net/http keeps in forty times as much memory.
func manyLines() string {
	var text strings.Builder
	text.WriteString(jsonHeader)
	for i := range 36 * 36 {
		fmt.Fprintf(&text, "%c%c:\n", "abcdefghijklmnopqrstuvwxyz0123456789"[i/36], "abcdefghijklmnopqrstuvwxyz0123456789"[i%36])
	}
	return text.String()
}

// neverRead sends reviews whose answers are large and reads none of them.
func neverRead(connection net.Conn) error {
	body := strings.Replace(review, `{"name": "app"}`, strings.Repeat(`{"name": "app"}, `, 300)+`{"name": "app"}`, 1)
	request := fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", jsonHeader, len(body), body)
	for {
		if _, err := io.WriteString(connection, request); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// attacks are kinds of strangers. More of them than the server takes connections hold one each, and come again when they are
// thrown out.
func attacks() map[string]stranger {
	megabytes := strings.Repeat("x", 5<<20)
	slowHeader := "GET / HTTP/1.1\r\nA: " + megabytes
	return map[string]stranger{
		"connections without a byte":      hold,
		"handshakes byte by byte":         drip(func(i int) byte { return "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[min(i, 10)] }),
		"handshakes, and then nothing":    overTLS(hold),
		"headers byte by byte":            overTLS(drip(func(i int) byte { return slowHeader[i] })),
		"large headers":                   overTLS(say(jsonHeader+"A: "+megabytes[:60000], hold)),
		"headers of many lines":           overTLS(say(manyLines(), hold)),
		"bodies that never come":          overTLS(say(jsonHeader+"Content-Length: 4194304\r\n\r\n", hold)),
		"bodies of which one byte comes":  overTLS(say(jsonHeader+"Content-Length: 4194304\r\n\r\n{", hold)),
		"bodies byte by byte":             overTLS(say(jsonHeader+"Content-Length: 4194304\r\n\r\n", drip(func(int) byte { return ' ' }))),
		"half bodies":                     overTLS(say(jsonHeader+"Content-Length: 60000\r\n\r\n"+megabytes[:30000], hold)),
		"half large bodies":               overTLS(say(jsonHeader+"Content-Length: 4194304\r\n\r\n"+megabytes[:3<<20], hold)),
		"chunked bodies without end":      overTLS(say(jsonHeader+"Transfer-Encoding: chunked\r\n\r\n100\r\n"+megabytes[:256]+"\r\n", hold)),
		"requests that are for no path":   overTLS(say("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n{", hold)),
		"one review, and then nothing":    overTLS(say(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", jsonHeader, len(review), review), hold)),
		"answers that are never read":     overTLS(neverRead),
		"HTTP/2, which is not served":     overTLS(say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", hold)),
		"plain HTTP, which is not served": say(jsonHeader, hold),
	}
}

// plainAttacks are those on the port of metrics and probes.
func plainAttacks() map[string]stranger {
	return map[string]stranger{
		"connections without a byte": hold,
		"headers of many lines":      say(manyLines(), hold),
		"bodies that never come":     say("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n", hold),
		"metrics that are not read":  say(strings.Repeat("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 50), func(net.Conn) error { time.Sleep(time.Second); return io.EOF }),
	}
}

// Callers that are no API servers hold connections from twenty addresses, each kind of attack alone. Honest reviews are
// answered within a second, on new and on kept connections, also where a proxy makes API servers and attackers one address,
// and so are the kubelet's probes. The server's limits are a twentieth of the defaults here, to spare the machine.
func TestStrangersStopNobody(t *testing.T) {
	p := startLimited(t, "--max-connections=25", "--max-connections-per-address=19")
	const few = 50
	for name, attack := range attacks() {
		t.Run(name, func(t *testing.T) {
			p.withstands(t, flood{attack: attack, target: p.webhook, connections: few, time: 300 * time.Millisecond})
		})
		t.Run(name+", from the API server's address", func(t *testing.T) {
			p.withstands(t, flood{attack: attack, target: p.webhook, connections: few, time: 300 * time.Millisecond, shared: true})
		})
	}
}

// A thousand connections from twenty addresses, and from one: all kinds of attacks at once, and what takes most memory alone.
func TestThousandStrangers(t *testing.T) {
	p := startLimited(t, fmt.Sprintf("--max-connections=%d", defaultMaxConnections*attackers/1000),
		fmt.Sprintf("--max-connections-per-address=%d", defaultMaxPerAddress*attackers/1000))
	kinds := attacks()
	// These two are work for the attackers, too, whose processors are ours here.
	for _, name := range []string{"half large bodies", "answers that are never read"} {
		delete(kinds, name)
	}
	all := slices.Collect(maps.Values(kinds))
	var next atomic.Int64
	mixed := func(connection net.Conn) error { return all[int(next.Add(1))%len(all)](connection) }
	tests := map[string]flood{
		"all kinds": {attack: mixed, target: p.webhook},
		"all kinds, from the API server's address": {attack: mixed, target: p.webhook, shared: true},
		"headers of many lines":                    {attack: kinds["headers of many lines"], target: p.webhook},
		"half bodies":                              {attack: kinds["half bodies"], target: p.webhook},
	}
	for name, attack := range plainAttacks() {
		tests["metrics and probes: "+name] = flood{attack: attack, target: p.http}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.connections, test.time = attackers, time.Second
			p.withstands(t, test)
		})
	}
}

// limited is the webhook as it is shipped, in a process of its own, with the memory of its container.
type limited struct {
	*process
	pid int
}

// binary is the program. Built by go test, it would have the tests in it, and the race detector's memory.
var (
	binaryDirectory string
	binary          = sync.OnceValues(buildBinary)
)

func buildBinary() (path string, err error) {
	if binaryDirectory, err = os.MkdirTemp("", "podtoken-webhook-"); err != nil {
		return "", err
	}
	path = filepath.Join(binaryDirectory, "podtoken-webhook")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // As the images are built: what they are made of is compiled once.
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return path, nil
}

func startLimited(t *testing.T, more ...string) *limited {
	t.Helper()
	p, args := prepare(t, more...)
	t.Setenv("GOMEMLIMIT", strconv.Itoa(containerBytes*4/5))
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(path, args...)
	command.Stderr = p.log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		if err := command.Wait(); err != nil {
			t.Errorf("the webhook ended with %v", err)
		}
		if log := p.log.String(); t.Failed() {
			t.Logf("the end of the log: %s", log[max(0, len(log)-2000):])
		}
	})
	eventually(t, "ready", p.ready)
	return &limited{p, command.Process.Pid}
}

// flood is an attack by many.
type flood struct {
	attack      stranger
	target      string
	connections int
	time        time.Duration
	shared      bool // the honest reviews come from the attackers' address
}

// withstands asks honestly while the flood is on.
func (p *limited) withstands(t *testing.T, f flood) {
	t.Helper()
	source := "127.0.1.1"
	if f.shared {
		source = sourceOf(0)
	}
	kept := newHonest(source)
	defer kept.close()
	if _, err := kept.ask(p.webhook); err != nil {
		t.Fatal(err)
	}
	tried, stop := f.begin()
	defer stop()
	// The machine works for both sides, so that the first wave of handshakes is waited for.
	eventually(t, "the attack is on", func() error {
		if n := tried.Load(); n < int64(f.connections) {
			return fmt.Errorf("%d connections", n)
		}
		if took, err := kept.ask(p.webhook); err != nil || took > honestLimit/4 {
			return fmt.Errorf("honest review after %v: %w", took, err)
		}
		return nil
	})
	var slowest time.Duration
	asked, late := 0, 0
	for end := time.Now().Add(f.time); time.Now().Before(end); asked++ {
		fresh := newHonest(source)
		for _, client := range []*honest{kept, fresh} {
			took, err := client.ask(p.webhook)
			if err != nil {
				t.Errorf("honest review %d: after %v: %v", asked, took, err)
			}
			if took > honestLimit {
				late++
			}
			slowest = max(slowest, took)
		}
		fresh.close()
		if err := p.probe("/healthz"); err != nil {
			t.Errorf("probe: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	// The machine may have other things to do for a moment.
	if late > asked/5 {
		t.Errorf("%d of %d honest reviews took longer than %v, the slowest %v", late, 2*asked, honestLimit, slowest)
	}
	now, peak := memoryOf(t, p.pid)
	t.Logf("%d honest reviews, the slowest after %v; %d connections of attackers; memory %d MB, %d MB at most so far",
		2*asked, slowest, tried.Load(), now>>20, peak>>20)
	if peak > containerBytes {
		t.Errorf("the process had %d MB: the container would have been killed", peak>>20)
	}
}

func sourceOf(i int) string { return fmt.Sprintf("127.0.2.%d", 1+i%sources) }

// begin holds connections until stop is called; those that the server ends come again.
func (f *flood) begin() (tried *atomic.Int64, stop func()) {
	tried = new(atomic.Int64)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for i := range f.connections {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(sourceOf(i))}}
		if f.shared {
			dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(sourceOf(0))}
		}
		group.Go(func() {
			// Not all at once: the machine shakes hands for both sides.
			time.Sleep(time.Duration(i) * 2 * time.Millisecond)
			for ctx.Err() == nil {
				connection, err := dialer.DialContext(ctx, "tcp", f.target)
				tried.Add(1)
				if err == nil {
					forget := context.AfterFunc(ctx, func() { _ = connection.Close() })
					_ = f.attack(connection)
					forget()
					_ = connection.Close()
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(rand.Int64N(int64(2 * comeBack)))):
				}
			}
		})
	}
	return tried, func() { cancel(); group.Wait() }
}

// honest is an API server.
type honest struct{ client *http.Client }

func newHonest(source string) *honest {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	return &honest{&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}}
}

func (h *honest) close() { h.client.CloseIdleConnections() }

func (h *honest) ask(address string) (time.Duration, error) {
	start := time.Now()
	response, err := h.client.Post("https://"+address+"/mutate?timeout=5s", "application/json", strings.NewReader(review))
	if err != nil {
		return time.Since(start), err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && !bytes.Contains(body, []byte(`"patch":`)) {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return time.Since(start), err
}

// probe asks as a kubelet does, for a second.
func (p *process) probe(path string) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + p.http + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// memoryOf returns what a process has in memory, and the most that it had.
func memoryOf(t *testing.T, pid int) (now, peak int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		for name, value := range map[string]*int64{"VmRSS:": &now, "VmHWM:": &peak} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				*value = kilobytes << 10
			}
		}
	}
	return now, peak
}
