package notify

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

// The test binary is also the application of these tests: see application.
const roleVariable = "PODTOKEN_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		applicationMain(role)
		return
	}
	os.Exit(m.Run())
}

// applicationMain says each signal that it gets, until its input ends. With the role "master" it has a worker of its own name.
func applicationMain(role string) {
	got := make(chan os.Signal, 8)
	signal.Notify(got)
	if role == "master" {
		worker := exec.Command(os.Args[0])
		worker.Env = []string{roleVariable + "=worker"}
		worker.Stdout = os.Stdout
		_, _ = worker.StdinPipe()
		if err := worker.Start(); err != nil {
			fmt.Println(err)
			return
		}
		defer func() { _ = worker.Process.Kill(); _ = worker.Wait() }()
	}
	ended := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		close(ended)
	}()
	fmt.Println(role, "started")
	for {
		select {
		case s := <-got:
			if s != syscall.SIGURG && s != syscall.SIGCHLD { // The Go runtime sends itself the former.
				fmt.Println(role, "got", s)
			}
		case <-ended:
			return
		}
	}
}

// runApplication starts the test binary under a name, and returns its process and its lines.
func runApplication(t *testing.T, name, role string) (*exec.Cmd, <-chan string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, binary); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Env = []string{roleVariable + "=" + role}
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(said)
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			said <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		_ = input.Close()
		<-done
		_ = cmd.Wait()
	})
	return cmd, said
}

// A real process gets the signal, and a worker of the same name, its child, does not.
func TestSignalIsReceived(t *testing.T) {
	name := fmt.Sprintf("app-%d", os.Getpid()) // Nobody else's.
	s := newSignaller(config.Signal{Name: "SIGUSR1", Process: name})
	err := s.deliver(t.Context(), nil)
	if !errors.As(err, new(absentError)) || !strings.Contains(err.Error(), fmt.Sprintf("no process %q: the name must be as in /proc/PID/comm", name)) {
		t.Errorf("before the process is there: %v", err)
	}
	s.youth = 0
	cmd, said := runApplication(t, name, "master")
	for _, want := range []string{"master started", "worker started"} {
		if got := []string{<-said}; !slices.Contains([]string{"master started", "worker started"}, got[0]) {
			t.Fatalf("it said %q, want %q", got, want)
		}
	}
	s.changed()
	time.Sleep(20 * time.Millisecond) // The kernel's clock ticks every ten.
	s.changed()
	if err := s.deliver(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := <-said; got != "master got user defined signal 1" {
		t.Errorf("it said %q", got)
	}
	// The worker would have got the first signal before it gets this one from us.
	found, err := s.find()
	if err != nil || len(found) != 2 || found[cmd.Process.Pid].parent != os.Getpid() || found[cmd.Process.Pid].user != os.Getuid() {
		t.Errorf("found %v, %v", found, err)
	}
	for pid := range found {
		if pid != cmd.Process.Pid {
			_ = syscall.Kill(pid, syscall.SIGUSR2)
		}
	}
	if got := <-said; got != "worker got user defined signal 2" {
		t.Errorf("the worker was signalled: it said %q", got)
	}
}

// fakeProcess is one in a made-up /proc.
type fakeProcess struct {
	pid, parent int
	comm, state string
	user        int
	// started, in ticks.
	started int
	// answer to the signal.
	answer error
}

func fakeProc(t *testing.T, self int, processes []fakeProcess) (s *signaller, signalled *[]int) {
	t.Helper()
	dir := t.TempDir()
	signalled = new([]int)
	answers := map[int]error{}
	for _, p := range processes {
		folder := filepath.Join(dir, strconv.Itoa(p.pid))
		status := fmt.Sprintf("Name:\t%s\nUmask:\t0022\nState:\t%s (x)\nPid:\t%d\nPPid:\t%d\nUid:\t%d\t0\t0\t0\n", p.comm, p.state, p.pid, p.parent, p.user)
		if err := errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(filepath.Join(folder, "comm"), []byte(p.comm+"\n"), 0o644),
			os.WriteFile(filepath.Join(folder, "stat"), fmt.Appendf(nil, "%d (a) b) %s 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 %d 0", p.pid, p.state, p.started), 0o644),
			os.WriteFile(filepath.Join(folder, "status"), []byte(status), 0o644)); err != nil {
			t.Fatal(err)
		}
		answers[p.pid] = p.answer
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "sys"), 0o755), os.Mkdir(filepath.Join(dir, "99"), 0o755)); err != nil { // 99 ended meanwhile.
		t.Fatal(err)
	}
	s = &signaller{signal: syscall.SIGHUP, name: "nginx", proc: dir, self: self, user: 101, youth: 30 * time.Second}
	s.changed()
	s.send = func(pid int, still func() bool) error {
		if !still() {
			t.Errorf("process %d is said to be another", pid)
		}
		if answers[pid] == nil {
			*signalled = append(*signalled, pid)
			slices.Sort(*signalled)
		}
		return answers[pid]
	}
	return s, signalled
}

func TestSignalProcesses(t *testing.T) {
	const (
		unnamed = `no process "nginx": the name must be as in /proc/PID/comm, of which the kernel keeps 15 bytes`
		alone   = `no process "nginx": the sidecar sees none but its own container's, set spec.shareProcessNamespace to true`
		denied  = `process 20 ("nginx") may not be signalled: it runs as user 0 and the sidecar as user 101, run both as one user`
	)
	pause := fakeProcess{pid: 1, comm: "pause", state: "S", user: 65535}
	for name, c := range map[string]struct {
		self      int
		processes []fakeProcess
		signalled []int
		err       string
		kind      any
	}{
		"one of several": {7, []fakeProcess{pause, {pid: 7, comm: "podtoken-sideca", state: "S"}, {pid: 20, comm: "nginx", state: "S"}, {pid: 21, comm: "nginx2", state: "S"}}, []int{20}, "", nil},
		"the master of a family, not its workers": {7, []fakeProcess{
			pause, {pid: 20, comm: "nginx", state: "S"}, {pid: 30, parent: 20, comm: "nginx", state: "S"}, {pid: 31, parent: 30, comm: "nginx", state: "S"},
		}, []int{20}, "", nil},
		"two masters":                       {7, []fakeProcess{pause, {pid: 20, parent: 1, comm: "nginx", state: "S"}, {pid: 21, parent: 1, comm: "nginx", state: "R"}}, []int{20, 21}, "", nil},
		"below a shell":                     {7, []fakeProcess{pause, {pid: 20, comm: "sh", state: "S"}, {pid: 21, parent: 20, comm: "nginx", state: "S"}}, []int{21}, "", nil},
		"never itself":                      {20, []fakeProcess{pause, {pid: 20, comm: "nginx", state: "S"}}, nil, unnamed, new(absentError)},
		"one that has ended, and a new one": {7, []fakeProcess{pause, {pid: 20, comm: "nginx", state: "Z"}, {pid: 21, comm: "nginx", state: "S"}}, []int{21}, "", nil},
		"one that has ended":                {7, []fakeProcess{pause, {pid: 20, comm: "nginx", state: "Z"}}, nil, unnamed, new(absentError)},
		"one that ends meanwhile":           {7, []fakeProcess{pause, {pid: 20, comm: "nginx", state: "S", answer: os.ErrProcessDone}}, nil, unnamed, new(absentError)},
		"none":                              {7, []fakeProcess{pause}, nil, unnamed, new(absentError)},
		"no shared namespace":               {1, []fakeProcess{{pid: 1, comm: "podtoken-sideca", state: "S"}}, nil, alone, new(absentError)},
		"another user":                      {7, []fakeProcess{pause, {pid: 20, comm: "nginx", state: "S", answer: syscall.EPERM}}, nil, denied, nil},
		"another user among others":         {7, []fakeProcess{pause, {pid: 20, comm: "nginx", state: "S", answer: os.NewSyscallError("kill", syscall.EPERM)}, {pid: 21, comm: "nginx", state: "S"}}, []int{21}, denied, new(finalError)},
		"another error":                     {7, []fakeProcess{pause, {pid: 20, comm: "nginx", state: "S", answer: syscall.EINVAL}}, nil, `signalling process 20 ("nginx"): invalid argument`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, signalled := fakeProc(t, c.self, c.processes)
			err := s.deliver(t.Context(), []string{"a"})
			text := ""
			if err != nil {
				text = err.Error()
			}
			if text != c.err {
				t.Errorf("got %q, want %q", text, c.err)
			}
			switch {
			case c.kind != nil && !errors.As(err, c.kind):
				t.Errorf("%T, want %T", err, c.kind)
			case c.kind == nil && (errors.As(err, new(absentError)) || errors.As(err, new(finalError))):
				t.Errorf("%T", err)
			}
			wantEqual(t, "signalled", c.signalled, *signalled)
		})
	}
	t.Run("the pod itself is never signalled", func(t *testing.T) {
		s, signalled := fakeProc(t, 7, []fakeProcess{pause})
		s.name = "pause"
		if err := s.deliver(t.Context(), nil); !errors.As(err, new(absentError)) || len(*signalled) > 0 {
			t.Errorf("%v, %v", *signalled, err)
		}
	})
	// Files changed 100 s after the node's start, and now it is 200 s.
	for name, c := range map[string]struct {
		started   []int
		signalled []int
		err       string
		kind      any
	}{
		"old enough":                            {[]int{9999}, []int{20}, "", nil},
		"started after the change":              {[]int{10000}, nil, `process "nginx" started after the change`, new(needlessError)},
		"one of each":                           {[]int{5000, 19000}, []int{20}, "", nil},
		"nobody while one is young: it retries": {[]int{5000, 17001}, nil, `process 21 ("nginx") has just started: it has 30s to prepare for the signal, which would end it before`, new(absentError)},
	} {
		t.Run(name, func(t *testing.T) {
			var processes []fakeProcess
			for i, started := range c.started {
				processes = append(processes, fakeProcess{pid: 20 + i, parent: 1, comm: "nginx", state: "S", started: started})
			}
			s, signalled := fakeProc(t, 7, processes)
			if err := os.WriteFile(filepath.Join(s.proc, "uptime"), []byte("200.00 300.00\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			s.changedAt.Store(10000)
			if name == "nobody while one is young: it retries" {
				s.changed()
			}
			err := s.deliver(t.Context(), nil)
			if text := fmt.Sprint(err); err != nil && text != c.err || err == nil && c.err != "" || c.kind != nil && !errors.As(err, c.kind) {
				t.Errorf("%T %v, want %q", err, err, c.err)
			}
			wantEqual(t, "signalled", c.signalled, *signalled)
		})
	}
	t.Run("no /proc", func(t *testing.T) {
		s, _ := fakeProc(t, 7, nil)
		s.proc = filepath.Join(s.proc, "nowhere")
		if err := s.deliver(t.Context(), nil); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
}

// A number that is another's process by the time of the signal gets none.
func TestReusedNumberIsNotSignalled(t *testing.T) {
	name := fmt.Sprintf("app-%d", os.Getpid())
	cmd, said := runApplication(t, name, "single")
	<-said
	s := newSignaller(config.Signal{Name: "SIGUSR1", Process: name})
	if err := s.send(cmd.Process.Pid, func() bool { return false }); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("got %v", err)
	}
	if err := s.send(cmd.Process.Pid, func() bool { return true }); err != nil {
		t.Error(err)
	}
	if got := <-said; got != "single got user defined signal 1" || len(said) != 0 {
		t.Errorf("it said %q, and %d lines more", got, len(said))
	}
}

// Every signal of the contract has its number, and no other has.
func TestSignals(t *testing.T) {
	names := api.NotifySignals()
	for _, name := range names {
		if _, ok := signals[name]; !ok {
			t.Errorf("%s has no number", name)
		}
	}
	if len(signals) != len(names) {
		t.Errorf("%d signals, the contract has %d", len(signals), len(names))
	}
	if signals["SIGHUP"] != 1 || signals["SIGTERM"] != 15 || signals["SIGWINCH"] != 28 {
		t.Errorf("%v", signals)
	}
}
