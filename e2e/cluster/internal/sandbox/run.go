package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podtoken/podtoken/internal/inherited"
)

// marker is an environment variable that every process of a sandbox carries, with the sandbox's directory as its value.
// It finds what no record names: a process that was started just before its starter was killed, and the helpers that a
// process has started itself.
const marker = "PODTOKEN_SANDBOX"

// Command is a program that runs in a sandbox until it is stopped.
type Command struct {
	Name string // of the log and of the record; one program at a time has it
	Path string
	Args []string
	Env  []string // the variables of the program, beside PATH
	Dir  string
	Node int // in whose network it runs
	// Files are open in the program from descriptor 3 on.
	Files []*os.File
}

// Start starts the program inside its node's network, in a session of its own: it outlives this process. It inherits neither
// this process's variables (a proxy cannot be reached from there, and a language or time zone changes logs) nor signals that are
// ignored, which the containers of a cluster would have in turn.
func (s *Sandbox) Start(command Command) error {
	if s.Running(command.Name) {
		return fmt.Errorf("%s is running already", command.Name)
	}
	log, err := os.OpenFile(s.LogPath(command.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	path, err := exec.LookPath(command.Path)
	if err != nil {
		return fmt.Errorf("starting %s: %w", command.Name, err)
	}
	// Without a context: no end of this process's work is the end of the program.
	cmd := &exec.Cmd{Path: path, Args: append([]string{command.Path}, command.Args...)}
	cmd.Dir = command.Dir
	cmd.Env = append(append([]string{"PATH=" + os.Getenv("PATH")}, command.Env...), marker+"="+s.root)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = command.Files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	inherited.Signals()
	if err := s.InNetwork(command.Node, cmd.Start); err != nil {
		return fmt.Errorf("starting %s: %w", command.Name, err)
	}
	p, err := identify(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // reaps it; how it ended is in its log
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended already; whoever waits for it finds its log
	} else if err != nil {
		return err
	}
	return s.saveProcess(command.Name, p)
}

// Running says whether the program of that name was started and has not ended.
func (s *Sandbox) Running(name string) bool {
	p, err := s.loadProcess(name)
	return err == nil && p.alive()
}

// Stop ends one program. It is no error if it does not run.
func (s *Sandbox) Stop(name string, grace time.Duration) error {
	p, err := s.loadProcess(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := end([]process{p}, grace); err != nil {
		return fmt.Errorf("stopping %s: %w", name, err)
	}
	return os.Remove(s.pidFile(name))
}

// Signal sends a signal to one program.
func (s *Sandbox) Signal(name string, sig unix.Signal) error {
	p, err := s.loadProcess(name)
	if err != nil {
		return fmt.Errorf("%s was not started: %w", name, err)
	}
	return p.signal(sig)
}

// LogPath returns the file with everything that the program of that name writes.
func (s *Sandbox) LogPath(name string) string { return s.Path("log", name+".log") }

// LogTail returns the last lines of a program's log.
func (s *Sandbox) LogTail(name string, lines int) string {
	content, err := os.ReadFile(s.LogPath(name))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(string(bytes.TrimRight(content, "\n")), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
