// Package proc reads from /proc what a process takes of its machine.
package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Memory is what a process holds, in bytes.
type Memory struct {
	// RSS are all resident pages; those of the binary are shared by all processes of a node that run it.
	RSS float64
	// Anonymous are the pages that nobody shares: what each further pod costs.
	Anonymous float64
	// Pss shares each page among those who have it.
	Pss float64
}

// MemoryOf reads smaps_rollup.
func MemoryOf(pid int) (Memory, error) {
	var m Memory
	err := fields(filepath.Join(root(pid), "smaps_rollup"), map[string]*float64{"Rss": &m.RSS, "Anonymous": &m.Anonymous, "Pss": &m.Pss})
	return Memory{m.RSS * 1024, m.Anonymous * 1024, m.Pss * 1024}, err
}

// Work is what a process has done so far.
type Work struct {
	CPU time.Duration
	// Switches are the times that one of its threads began to wait, or was made to.
	Switches float64
	Threads  int
}

// WorkOf sums over the threads, by the scheduler's own counters of nanoseconds.
func WorkOf(pid int) (Work, error) {
	threads, err := filepath.Glob(filepath.Join(root(pid), "task", "*"))
	if err != nil || len(threads) == 0 {
		return Work{}, fmt.Errorf("process %d has ended", pid)
	}
	w := Work{Threads: len(threads)}
	for _, thread := range threads {
		content, err := os.ReadFile(filepath.Join(thread, "schedstat")) //nolint:gosec // below /proc
		if err != nil {
			return w, err
		}
		nanoseconds, _, _ := strings.Cut(string(content), " ")
		ran, err := strconv.ParseInt(nanoseconds, 10, 64)
		if err != nil {
			return w, err
		}
		w.CPU += time.Duration(ran)
		var voluntary, forced float64
		if err := fields(filepath.Join(thread, "status"), map[string]*float64{"voluntary_ctxt_switches": &voluntary, "nonvoluntary_ctxt_switches": &forced}); err != nil {
			return w, err
		}
		w.Switches += voluntary + forced
	}
	return w, nil
}

// Since is what was done after an earlier look.
func (w Work) Since(earlier Work) Work {
	return Work{CPU: w.CPU - earlier.CPU, Switches: w.Switches - earlier.Switches, Threads: w.Threads}
}

func root(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid)) }

// fields reads "name: number" lines.
func fields(path string, wanted map[string]*float64) error {
	content, err := os.ReadFile(path) //nolint:gosec // below /proc
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		if target := wanted[name]; target != nil {
			if _, err := fmt.Sscan(value, target); err != nil {
				return fmt.Errorf("reading %s of %s: %w", name, path, err)
			}
		}
	}
	return nil
}

// PeakOf is the most that the process has had resident, in bytes.
func PeakOf(pid int) (bytes float64, err error) {
	err = fields(filepath.Join(root(pid), "status"), map[string]*float64{"VmHWM": &bytes})
	return bytes * 1024, err
}
