package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// runMain makes this test binary be the program: exit codes and signals need a process of their own.
const runMain = "PODTOKEN_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		return
	}
	code := m.Run()
	if binaryDirectory != "" {
		_ = os.RemoveAll(binaryDirectory)
	}
	os.Exit(code)
}

func startProcess(t *testing.T, p *process, args []string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], args...)
	command.Env = append(os.Environ(), runMain+"=1")
	command.Stderr = p.log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	return command
}

func TestExitCodes(t *testing.T) {
	t.Run("0 after a drained shutdown", func(t *testing.T) {
		p, args := prepare(t)
		command := startProcess(t, p, args)
		eventually(t, "ready", p.ready)
		if err := command.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := command.Wait(); err != nil {
			t.Errorf("%v: %s", err, p.log)
		}
		for _, message := range []string{"Serving", "Draining", "Stopped"} {
			if !strings.Contains(p.log.String(), `"msg":"`+message+`"`) {
				t.Errorf("%q is not in the log: %s", message, p.log)
			}
		}
	})
	t.Run("1 after an error", func(t *testing.T) {
		p, args := prepare(t)
		err := startProcess(t, p, append(args, "--log-level=loud")).Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
			t.Errorf("%v", err)
		}
		want := "podtoken-webhook: flag --log-level: \"loud\" is not one of debug, info, warn, error\n"
		if got := p.log.String(); got != want {
			t.Errorf("stderr = %q, want %q", got, want)
		}
	})
	t.Run("a second signal ends it at once", func(t *testing.T) {
		p, args := prepare(t, "--drain-delay=5m")
		command := startProcess(t, p, args)
		eventually(t, "ready", p.ready)
		if err := command.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, "draining", func() error { return p.notReady("draining") })
		// Once more and once more: the first could come before the default handling is back.
		eventually(t, "gone", func() error {
			if err := command.Process.Signal(syscall.SIGTERM); err != nil {
				return nil //nolint:nilerr // that it is gone is what we wait for
			}
			if _, _, err := p.get("/healthz"); err == nil {
				return errors.New("still there")
			}
			return nil
		})
		err := command.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
			t.Errorf("%v, want the signal's default", err)
		}
	})
}
