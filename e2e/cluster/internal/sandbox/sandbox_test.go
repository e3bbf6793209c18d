package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envLeave makes this test program be a run that is killed: it makes the sandbox of that name and leaves it behind.
const envLeave = "PODTOKEN_TEST_LEAVE"

func TestMain(m *testing.M) {
	if name := os.Getenv(envLeave); name != "" {
		if err := leave(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	os.Exit(m.Run())
}

// leave makes a sandbox with all that a sandbox can have.
func leave(name string) error {
	s, err := Create(name)
	if err != nil {
		return err
	}
	if err := s.AddNode(2); err != nil {
		return err
	}
	recorded := sleeper("recorded")
	recorded.Node = 2
	if err := s.Start(recorded); err != nil {
		return err
	}
	if err := s.Start(sleeper("unrecorded")); err != nil {
		return err
	}
	if err := os.Rename(s.pidFile("unrecorded"), s.Path("unrecorded")); err != nil {
		return err
	}
	// A container: in the cgroup, without the environment of the sandbox, in no record.
	container := exec.Command("sleep", "1000")
	container.Env = []string{}
	if err := container.Start(); err != nil {
		return err
	}
	cgroups, err := s.cgroups(2)
	if err != nil {
		return err
	}
	pod := filepath.Join(cgroups[len(cgroups)-1], "kubepods", "pod1")
	if err := os.MkdirAll(pod, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(pod, "cgroup.procs"), fmt.Appendf(nil, "%d", container.Process.Pid), 0); err != nil {
		return err
	}
	if err := os.WriteFile(s.Path("container"), fmt.Appendf(nil, "%d", container.Process.Pid), 0o600); err != nil {
		return err
	}
	mounted := s.Path("with a blank")
	if err := os.Mkdir(mounted, 0o700); err != nil {
		return err
	}
	return unix.Mount("tmpfs", mounted, "tmpfs", 0, "")
}

func sleeper(name string) Command {
	path, _ := exec.LookPath("sleep")
	return Command{Name: name, Path: path, Args: []string{"1000"}, Dir: "/", Node: FirstNode}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes a network namespace and cgroups: run it as root")
	}
}

func create(t *testing.T, name string) *Sandbox {
	t.Helper()
	needRoot(t)
	s, err := Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestDestroyLeavesNothing(t *testing.T) {
	needRoot(t)
	s, err := Create("t-destroy")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(sleeper("one")); err != nil {
		t.Fatal(err)
	}
	p, err := s.loadProcess("one")
	if err != nil {
		t.Fatal(err)
	}
	if !p.alive() || !s.Running("one") {
		t.Fatal("the program does not run")
	}
	if err := s.Destroy(); err != nil {
		t.Fatal(err)
	}
	if p.alive() {
		t.Error("the program is still alive")
	}
	assertGone(t, s)
	if _, err := os.Stat(s.root + ".lock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lock's file is still there: %v", err)
	}
}

// A run that is killed has no chance to clean up. Whatever it has made is found and removed by the next one.
func TestSweepRemovesWhatAKilledRunLeft(t *testing.T) {
	needRoot(t)
	const name = "t-killed"
	killed := exec.Command(os.Args[0])
	killed.Env = append(os.Environ(), envLeave+"="+name)
	out, err := killed.CombinedOutput()
	if killed.ProcessState == nil || killed.ProcessState.Sys().(interface{ Signaled() bool }).Signaled() == false {
		t.Fatalf("the run was not killed: %v\n%s", err, out)
	}
	left, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	var processes []process
	for _, path := range []string{left.pidFile("recorded"), left.Path("unrecorded")} {
		if err := os.Rename(path, left.pidFile("read")); err != nil {
			t.Fatal(err)
		}
		p, err := left.loadProcess("read")
		if err != nil || !p.alive() {
			t.Fatalf("%s does not run: %v", path, err)
		}
		processes = append(processes, p)
		if err := os.Rename(left.pidFile("read"), path); err != nil {
			t.Fatal(err)
		}
	}
	var pid int
	content, err := os.ReadFile(left.Path("container"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(content), &pid); err != nil {
		t.Fatal(err)
	}
	container, err := identify(pid)
	if err != nil || !container.alive() {
		t.Fatalf("the container does not run: %v", err)
	}
	processes = append(processes, container)
	left.Release()

	swept, err := Sweep()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, one := range swept {
		found = found || one == name
	}
	if !found {
		t.Errorf("swept %q, want %q among them", swept, name)
	}
	for _, p := range processes {
		if p.alive() {
			t.Errorf("process %d is still alive", p.PID)
		}
	}
	assertGone(t, left)
}

func TestSweepLeavesOthersAlone(t *testing.T) {
	inUse := create(t, "t-inuse")
	kept := create(t, "t-kept")
	if err := kept.Keep(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Sandbox{inUse, kept} {
		if err := s.Start(sleeper("one")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Sweep(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Sandbox{inUse, kept} {
		if !s.Running("one") {
			t.Errorf("sandbox %q was swept", s.Name())
		}
	}
	var busy *InUseError
	if _, err := Create("t-inuse"); !errors.As(err, &busy) {
		t.Errorf("creating a sandbox that is in use: %v, want an InUseError", err)
	}
}

// The names of one sandbox may be the beginning of another one's.
func TestDestroyLeavesANeighbourAlone(t *testing.T) {
	neighbour := create(t, "t-a-b")
	if err := neighbour.Start(sleeper("one")); err != nil {
		t.Fatal(err)
	}
	s, err := Create("t-a")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Destroy(); err != nil {
		t.Fatal(err)
	}
	if !neighbour.Running("one") {
		t.Error("the neighbour's program was ended")
	}
	if err := neighbour.InNetwork(FirstNode, func() error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestARecycledPIDIsNotKilled(t *testing.T) {
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	now, err := identify(other.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	earlier, rebooted := now, now
	earlier.StartTicks--
	rebooted.BootID = "another"
	if err := end([]process{earlier, rebooted}, 0); err != nil {
		t.Fatal(err)
	}
	if !now.alive() {
		t.Fatal("a process was killed that only has the PID of the recorded one")
	}
}

func TestAZombieIsNotAlive(t *testing.T) {
	child := exec.Command("true")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := identify(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !waitUntil(10*time.Second, func() bool { return !p.alive() }) {
		t.Error("an ended process that nobody has reaped counts as alive")
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestNamesThatCannotBe(t *testing.T) {
	for _, name := range []string{"", "-a", "a-", "A", "a/b", "..", "a.b", "abcdefghijklmnopqrstuvwxy"} {
		if err := CheckName(name); err == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
	for _, name := range []string{"a", "a-b", "0", "abcdefghijklmnopqrstuvwx"} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
}

func TestParseMount(t *testing.T) {
	const line = `36 35 98:0 /mnt1 /mnt\0402 rw,noatime shared:1 master:1 - cgroup /dev/root rw,cpuset`
	got, ok := parseMount(line)
	if want := (mount{point: "/mnt 2", filesystem: "cgroup", options: "rw,cpuset"}); !ok || got != want {
		t.Errorf("parseMount(%q) = %+v, %v, want %+v", line, got, ok, want)
	}
	if _, ok := parseMount("nonsense"); ok {
		t.Error("nonsense was parsed")
	}
}

func assertGone(t *testing.T, s *Sandbox) {
	t.Helper()
	if _, err := os.Stat(s.root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", s.root, err)
	}
	below, err := mountsBelow(s.root)
	if err != nil || len(below) > 0 {
		t.Errorf("still mounted: %v %v", below, err)
	}
	cgroups, err := s.cgroups(FirstNode)
	if err != nil {
		t.Fatal(err)
	}
	for _, directory := range cgroups {
		if _, err := os.Stat(directory); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("cgroup %s is still there: %v", directory, err)
		}
	}
}
