package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// kill ends every process of this process namespace whose first argument is program.
func kill(program string) error {
	pids, err := processes(program)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("killing process %d: %w", pid, err)
		}
	}
	return nil
}

// processes returns the processes of this process namespace whose first argument is program, of which there must be one.
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
		pids = append(pids, pid)
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("no process runs %q", program)
	}
	return pids, nil
}
