package tokenrequest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podtoken/podtoken/internal/tokenrequest/fakeapi"
)

// TestABatchIsOneConnection: what is asked for at the same time shares a connection, and really is on its way at the same time.
func TestABatchIsOneConnection(t *testing.T) {
	const together, batches = 4, 3
	server := fakeapi.Start(t)
	c, _ := client(t, server)
	for range batches {
		var asked sync.WaitGroup
		asked.Add(together)
		server.Hold(func() {
			asked.Done()
			asked.Wait() // nobody is answered before all have asked
		})
		var minted sync.WaitGroup
		for range together {
			minted.Go(func() {
				if _, err := c.Mint(t.Context(), vault); err != nil {
					t.Error(err)
				}
			})
		}
		minted.Wait()
		c.Idle()
	}
	if n := server.Connections(); n != batches {
		t.Errorf("%d connections for %d batches", n, batches)
	}
	if n := server.Requests(); n != together*batches {
		t.Errorf("%d requests for %d tokens", n, together*batches)
	}
}

// TestADeadConnectionIsLeft: a node of the load balancer that dies says nothing. Over HTTP/2 all requests would go on using
// the connection to it, for the quarter of an hour that the kernel tries.
func TestADeadConnectionIsLeft(t *testing.T) {
	t.Parallel()
	server := fakeapi.Start(t)
	balancer := startBalancer(t, net.JoinHostPort(server.Host, server.Port))
	_, server.Port, _ = net.SplitHostPort(balancer.listener.Addr().String())
	c, _ := client(t, server)
	if _, err := c.Mint(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	balancer.silence()
	began := time.Now()
	if e := failure(t, c); e.Class != "Network" || e.Status != 0 {
		t.Errorf("%+v", e)
	}
	if took := time.Since(began); took > pingAfter+pingTimeout+5*time.Second {
		t.Errorf("it was noticed after %s", took)
	}
	if _, err := c.Mint(t.Context(), vault); err != nil {
		t.Errorf("the next one: %v", err)
	}
	if n := server.Connections(); n != 2 {
		t.Errorf("%d connections, want the dead one and another", n)
	}
}

// balancer forwards connections, until those that are open are silenced.
type balancer struct {
	listener net.Listener
	mu       sync.Mutex
	current  *atomic.Bool // of the connections that are made now: nothing goes through any more
}

func startBalancer(t *testing.T, target string) *balancer {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{listener: listener, current: new(atomic.Bool)}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			here, err := listener.Accept()
			if err != nil {
				return
			}
			there, err := new(net.Dialer).DialContext(t.Context(), "tcp", target)
			if err != nil {
				_ = here.Close()
				continue
			}
			b.mu.Lock()
			silent := b.current
			b.mu.Unlock()
			go forward(here, there, silent)
			go forward(there, here, silent)
		}
	}()
	return b
}

func forward(to, from net.Conn, silent *atomic.Bool) {
	defer func() { _ = to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if silent.Load() {
			_, _ = io.Copy(io.Discard, from) // until it is closed: nothing is answered, and nothing refused
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// silence has all connections of now die.
func (b *balancer) silence() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current.Store(true)
	b.current = new(atomic.Bool)
}

// maxMintAllocations is the budget of one request: some of it stays in memory until the sidecar rests.
const maxMintAllocations = 400

func TestMintAllocations(t *testing.T) {
	server := fakeapi.Start(t)
	c, _ := client(t, server)
	result := testing.Benchmark(func(b *testing.B) { benchmarkMint(b, c) })
	// The server is in the same process.
	t.Logf("%d allocations, %d bytes", result.AllocsPerOp(), result.AllocedBytesPerOp())
	if n := result.AllocsPerOp(); n > maxMintAllocations {
		t.Errorf("a token costs %d allocations, the budget is %d", n, maxMintAllocations)
	}
}

func BenchmarkMint(b *testing.B) {
	server := fakeapi.Start(b)
	c, _ := client(b, server)
	benchmarkMint(b, c)
}

func benchmarkMint(b *testing.B, c *Client) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Mint(b.Context(), vault); err != nil {
			b.Fatal(err)
		}
	}
}
