package report

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// Conditions are where and when something was measured, and how busy the machine was.
type Conditions struct {
	started time.Time
	before  string
	command string
}

// Begin notes the load before the measurement. The command is what somebody types to repeat it.
func Begin(command string) *Conditions {
	return &Conditions{started: time.Now(), before: load(), command: command}
}

// String is the line that stands above a table.
func (c *Conditions) String() string {
	return fmt.Sprintf("`%s` on %s, %s, on a machine with %s. Load average %s before and %s after.\n",
		c.command, c.started.UTC().Format(time.DateOnly), runtime.Version(), machine(), c.before, load())
}

func machine() string {
	return fmt.Sprintf("%d cores (%s), %s, Linux %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"), memory(), kernel())
}

func memory() string {
	var kb float64
	_, _ = fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kb)
	return fmt.Sprintf("%.0f GiB", kb/(1<<20))
}

func kernel() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	number, _, _ := strings.Cut(strings.TrimSpace(string(release)), "-")
	return number
}

// load is the average of the last minute.
func load() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	minute, _, _ := strings.Cut(string(content), " ")
	return minute
}

// field is the value of "name: value" in a file of /proc.
func field(path, name string) string {
	f, err := os.Open(path) //nolint:gosec // the callers name files of /proc
	if err != nil {
		return "unknown"
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
