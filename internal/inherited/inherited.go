// Package inherited undoes what a process inherits from the process that started it and hands on to the processes that it starts itself.
// Tests and the test cluster use it: what they find must not depend on how they were started. The programs that are shipped do not.
package inherited

import (
	"os"
	"os/signal"
	"syscall"
)

// Signals gives SIGHUP and SIGINT their default action in the processes that this one starts from now on. nohup and "&" have them
// ignored; Go leaves these two as they were, and a shell cannot trap what was ignored when it started. This process itself
// goes on ignoring them.
func Signals() {
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(s) {
			// A signal that a Go program is notified of has its default action in what the program starts. The channel is never read.
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
}
