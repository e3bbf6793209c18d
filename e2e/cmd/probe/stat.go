package main

import (
	"fmt"
	"os"
	"syscall"
)

// FileStat describes one file; Readable says whether this process could open it.
type FileStat struct {
	Path     string `json:"path"`
	Mode     string `json:"mode,omitempty"`
	Owner    string `json:"owner,omitempty"`
	Size     int64  `json:"size"`
	Readable bool   `json:"readable"`
	Error    string `json:"error,omitempty"`
}

func statFile(path string) FileStat {
	s := FileStat{Path: path}
	info, err := os.Stat(path)
	if err != nil {
		s.Error = err.Error()
		return s
	}
	s.Mode, s.Size = fmt.Sprintf("%04o", info.Mode().Perm()), info.Size()
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Owner = fmt.Sprintf("%d:%d", sys.Uid, sys.Gid)
	}
	f, err := os.Open(path)
	if err == nil {
		s.Readable = true
		_ = f.Close()
	}
	return s
}
