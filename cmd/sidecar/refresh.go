package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/status"
)

// refreshSignal is what asks run to replace every token; one that is still unanswered is enough.
func refreshSignal() <-chan os.Signal {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGHUP)
	return asked
}

// runRefresh is the command refresh, for people: after a change of signing keys, say, nobody has to wait for the
// schedule or to restart the pod.
func runRefresh(ctx context.Context, args []string, stdout io.Writer) (int, error) {
	flags := newFlags(api.CommandRefresh)
	dir := flags.String("dir", api.SidecarTokenDir, "")
	timeout := flags.Duration(api.FlagTimeout, time.Minute, "")
	if err := parse(flags, args); err != nil {
		return exitUsage, err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	asked := time.Now()
	if err := askRun(*dir); err != nil {
		return exitMissing, err
	}
	if err := status.WaitReplaced(ctx, *dir, asked); err != nil {
		return exitMissing, err
	}
	return printCheck(*dir, stdout)
}

// askRun sends SIGHUP to the process that keeps the tokens in dir.
func askRun(dir string) error {
	current, err := status.Read(dir)
	if err != nil {
		return err
	}
	// The status may be that of a process that has ended, and its number somebody else's by now: SIGHUP would end it.
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(current.PID) + "/cmdline")
	if err != nil {
		return fmt.Errorf("process %d, which wrote the status in %q, has ended: %w", current.PID, dir, err)
	}
	arguments := bytes.Split(cmdline, []byte{0})
	if len(arguments) < 2 || filepath.Base(string(arguments[0])) != filepath.Base(api.SidecarBinary) || string(arguments[1]) != api.CommandRun {
		return fmt.Errorf("process %d, which wrote the status in %q, has ended and its number is in use by another: try again when the sidecar has restarted", current.PID, dir)
	}
	if err := syscall.Kill(current.PID, syscall.SIGHUP); err != nil {
		return fmt.Errorf("asking process %d for a refresh: %w", current.PID, err)
	}
	return nil
}
