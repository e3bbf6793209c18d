package e2e

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

// contended calls f and returns how many times longer than on a quiet machine a busy thread took meanwhile: the time that passed over the
// time that the thread had a core, at least 1. A time that was measured in f, divided by it, does not depend on what else the machine does.
func contended(t *testing.T, f func()) float64 {
	t.Helper()
	stop, ratio := make(chan struct{}), make(chan float64)
	go func() {
		runtime.LockOSThread() // it ends with the goroutine, and takes nothing back
		start, used := time.Now(), threadTime()
		for {
			select {
			case <-stop:
				ratio <- max(1, float64(time.Since(start))/float64(max(threadTime()-used, 1)))
				return
			default:
				for range 1 << 16 {
					runtime.KeepAlive(ratio)
				}
			}
		}
	}()
	f()
	close(stop)
	return <-ratio
}

// threadTime is the time that the calling thread has run.
func threadTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
