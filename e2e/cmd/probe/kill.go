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

// harass makes a program work, and kills it in the middle: it sends SIGHUP, which has the sidecar replace the file among others,
// and SIGKILL some time later, the given number of times. How long a replacement takes it measures now and then, so that about
// half of the kills come before its end, however busy the machine is. It returns when the program runs once more.
func harass(program, file string, times int) error {
	takes := time.Duration(0)
	for done := 0; ; {
		pids, err := processes(program + "\x00run") // not the gate
		if err != nil {
			time.Sleep(20 * time.Millisecond) // it is down
			continue
		}
		if takes == 0 || done%10 == 9 && rand.IntN(2) == 0 { //nolint:gosec // no secret
			if took, replaced := replacement(pids[0], file); replaced {
				takes = took
			}
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
		time.Sleep(time.Duration(rand.Float64() * 2 * float64(takes))) //nolint:gosec // no secret
		if syscall.Kill(pids[0], syscall.SIGKILL) == nil {
			done++
		}
	}
}

// replacement is how long it takes from SIGHUP to the process until there is another file; false when it takes for ever.
func replacement(pid int, file string) (time.Duration, bool) {
	before, err := os.Stat(file)
	if err != nil {
		return 0, false
	}
	begun := time.Now()
	if syscall.Kill(pid, syscall.SIGHUP) != nil {
		return 0, false
	}
	for time.Since(begun) < 5*time.Second {
		if now, err := os.Stat(file); err == nil && !os.SameFile(before, now) {
			return time.Since(begun), true
		}
		time.Sleep(time.Millisecond)
	}
	return 0, false
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
