package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podtoken/podtoken/bench/proc"
	"github.com/podtoken/podtoken/internal/tokenrequest/fakeapi"
)

// tokens are three, as a workload with several receivers has them.
var tokens = []string{"vault", "billing", "storage"}

// process is a binary that runs, its directories, and the API server that answers it.
type process struct {
	*exec.Cmd
	server  *fakeapi.Server
	dir     string
	started time.Time
}

func start(ctx context.Context, dir string, c *candidate) (*process, error) {
	if err := os.MkdirAll(filepath.Join(dir, "tokens"), 0o750); err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server, err := fakeapi.Serve(listener)
	if err != nil {
		return nil, err
	}
	credential := fakeapi.Credential("bench")
	server.SetCredential(credential)
	apiDir := filepath.Join(dir, "api")
	if err := os.MkdirAll(apiDir, 0o750); err != nil {
		return nil, err
	}
	if err := server.PutCredential(apiDir, credential); err != nil {
		return nil, err
	}
	p := &process{server: server, dir: filepath.Join(dir, "tokens")}
	args := []string{"run", "--dir=" + p.dir, "--api-dir=" + apiDir, "--termination-log=" + filepath.Join(dir, "termination-log")}
	for _, name := range tokens {
		args = append(args, fmt.Sprintf(`--token={"name":%q,"audiences":["https://%s.example.com"],"expirationSeconds":3600,"path":%q,"mode":"0444","refreshAtPercent":80}`, name, name, name))
	}
	p.Cmd = exec.CommandContext(ctx, c.binary, args...) //nolint:gosec // what is to be measured
	p.Env = append([]string{
		"PODTOKEN_POD_NAME=" + fakeapi.PodName, "PODTOKEN_POD_NAMESPACE=" + fakeapi.Namespace,
		"PODTOKEN_POD_UID=" + fakeapi.PodUID, "PODTOKEN_SERVICE_ACCOUNT=" + fakeapi.ServiceAccount,
		"KUBERNETES_SERVICE_HOST=" + server.Host, "KUBERNETES_SERVICE_PORT=" + server.Port,
	}, c.env...)
	p.started = time.Now()
	return p, p.Start()
}

func (p *process) stop() {
	_ = p.Process.Kill()
	_ = p.Wait()
	p.server.Close()
}

// there waits until so many tokens are on disk.
func (p *process) there(ctx context.Context, n int) (time.Duration, error) {
	for deadline := p.started.Add(30 * time.Second); ; {
		found := 0
		for _, name := range tokens {
			if _, err := os.Lstat(filepath.Join(p.dir, name)); err == nil {
				found++
			}
		}
		switch took := time.Since(p.started); {
		case found >= n:
			return took, nil
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case time.Now().After(deadline):
			return 0, fmt.Errorf("%s has no %d tokens after %s", p.Path, n, took)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// settling is how long a process has after its start: connections are closed, memory is given back.
const settling = 10 * time.Second

// measure starts the candidates in turns, and then watches some of each at rest, all at the same time.
func measure(ctx context.Context, dir string, candidates []candidate, starts, rests int, idle time.Duration, refreshes int) error {
	for round := range starts {
		for i := range candidates {
			if err := candidates[i].measureStart(ctx, filepath.Join(dir, "start", strconv.Itoa(round), strconv.Itoa(i))); err != nil {
				return err
			}
		}
	}
	var watched []*process
	defer func() {
		for _, p := range watched {
			p.stop()
		}
	}()
	for i := range rests * len(candidates) {
		p, err := start(ctx, filepath.Join(dir, "rest", strconv.Itoa(i)), &candidates[i%len(candidates)])
		if err != nil {
			return err
		}
		watched = append(watched, p)
		if _, err := p.there(ctx, len(tokens)); err != nil {
			return err
		}
	}
	if err := sleep(ctx, settling); err != nil {
		return err
	}
	before := make([]proc.Work, len(watched))
	for i, p := range watched {
		work, err := proc.WorkOf(p.Process.Pid)
		if err != nil {
			return err
		}
		before[i] = work
	}
	if err := sleep(ctx, idle); err != nil {
		return err
	}
	for i, p := range watched {
		if err := candidates[i%len(candidates)].measureRest(p, before[i], idle); err != nil {
			return err
		}
	}
	return live(ctx, candidates, watched, refreshes)
}

// longestTimeout is a little more than the sidecar's for a request.
const longestTimeout = 40 * time.Second

// resting is how long a process has between two replacements of its tokens. In life it is most of an hour.
const resting = 150 * time.Millisecond

// live has each of the watched processes replace its tokens so many times, and looks at its memory again once it rests.
func live(ctx context.Context, candidates []candidate, watched []*process, refreshes int) error {
	group, running := errgroup.WithContext(ctx)
	for _, p := range watched {
		group.Go(func() error {
			for range refreshes {
				if err := p.refresh(running); err != nil {
					return err
				}
				if err := sleep(running, resting); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	// In so short a time many timeouts are still waiting for nothing, which hold what they are for. In life the last one is
	// over before the next replacement.
	if err := sleep(ctx, longestTimeout); err != nil {
		return err
	}
	for _, p := range watched {
		if err := p.refresh(ctx); err != nil {
			return err
		}
	}
	if err := sleep(ctx, settling); err != nil {
		return err
	}
	for i, p := range watched {
		memory, err := proc.MemoryOf(p.Process.Pid)
		if err != nil {
			return err
		}
		c := &candidates[i%len(candidates)]
		c.lateRSS = append(c.lateRSS, memory.RSS/1e6)
		c.lateAnon = append(c.lateAnon, memory.Anonymous/1e6)
	}
	return nil
}

// refresh has all tokens replaced, and waits until they are and the connection that it took is closed.
func (p *process) refresh(ctx context.Context) error {
	wanted := p.server.Requests() + len(tokens)
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); p.server.Requests() < wanted || p.server.Open() > 0; {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("%s did not replace its tokens when it was asked to", p.Path)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (c *candidate) measureStart(ctx context.Context, dir string) error {
	p, err := start(ctx, dir, c)
	if err != nil {
		return err
	}
	defer p.stop()
	first, err := p.there(ctx, 1)
	if err != nil {
		return err
	}
	all, err := p.there(ctx, len(tokens))
	if err != nil {
		return err
	}
	work, err := proc.WorkOf(p.Process.Pid)
	if err != nil {
		return err
	}
	c.first = append(c.first, milliseconds(first))
	c.all = append(c.all, milliseconds(all))
	c.startCPU = append(c.startCPU, milliseconds(work.CPU))
	c.connections = append(c.connections, float64(p.server.Connections()))
	return nil
}

func (c *candidate) measureRest(p *process, before proc.Work, idle time.Duration) error {
	after, err := proc.WorkOf(p.Process.Pid)
	if err != nil {
		return err
	}
	memory, err := proc.MemoryOf(p.Process.Pid)
	if err != nil {
		return err
	}
	did := after.Since(before)
	minutes := idle.Minutes()
	c.rss = append(c.rss, memory.RSS/1e6)
	c.anon = append(c.anon, memory.Anonymous/1e6)
	c.threads = append(c.threads, float64(after.Threads))
	c.cpu = append(c.cpu, milliseconds(did.CPU)/minutes)
	c.switches = append(c.switches, did.Switches/minutes)
	c.requests = append(c.requests, float64(p.server.Requests()))
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
