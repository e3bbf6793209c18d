package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// envProgram makes the program out of the binary of this test.
const envProgram = "PODTOKEN_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if path := os.Getenv(envProgram); path != "" {
		os.Args = []string{"kubectl-podtoken", "inject", "-f", path}
		main()
		return
	}
	os.Exit(m.Run())
}

// A command that waits for its input, as inject -f - on a terminal, ends with the first Ctrl-C.
func TestInterrupt(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	program := exec.CommandContext(t.Context(), os.Args[0])
	program.Env, program.Stderr = append(os.Environ(), envProgram+"="+pipe, "KUBECONFIG=/nowhere"), &stderr
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()
	// It reads once the pipe can be opened for writing.
	var writer *os.File
	for deadline := time.Now().Add(time.Minute); writer == nil; time.Sleep(10 * time.Millisecond) {
		file, err := os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			writer = file
		} else if !errors.Is(err, syscall.ENXIO) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer func() { _ = writer.Close() }()
	if err := program.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on")
	}
	if code := program.ProcessState.ExitCode(); code != 1 || stderr.String() != "error: interrupted\n" {
		t.Errorf("exit code %d, and %q", code, stderr.String())
	}
}
