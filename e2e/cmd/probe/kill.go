package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// kill sends the signal to every other process of this process namespace whose first argument is program.
func kill(program string, signal syscall.Signal) error {
	pids, err := processes(program)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, signal); err != nil {
			return fmt.Errorf("killing process %d: %w", pid, err)
		}
	}
	return nil
}

// harass makes a program work, and kills it in the middle: it sends SIGHUP, which has the sidecar replace its tokens, and at
// random within some milliseconds SIGKILL, the given number of times. It returns when the program runs once more.
func harass(program string, times int) error {
	for done := 0; ; {
		pids, err := processes(program + "\x00run") // not the gate
		if err != nil {
			time.Sleep(20 * time.Millisecond) // it is down
			continue
		}
		if done == times {
			return nil
		}
		// Anything from its first steps to its rest.
		time.Sleep(time.Duration(rand.Float64() * rand.Float64() * float64(300*time.Millisecond))) //nolint:gosec // no secret
		if syscall.Kill(pids[0], syscall.SIGHUP) != nil {
			continue
		}
		time.Sleep(time.Duration(rand.Float64() * rand.Float64() * float64(400*time.Millisecond))) //nolint:gosec // no secret
		if syscall.Kill(pids[0], syscall.SIGKILL) == nil {
			done++
		}
	}
}

// processes returns the other processes of this process namespace whose first argument is program, of which there must be one.
func processes(program string) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range files {
		cmdline, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(cmdline), program+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		if pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("no process runs %q", program)
	}
	return pids, nil
}
