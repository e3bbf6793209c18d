// Package alarm is a timer for a process that sleeps nearly always: one that the kernel keeps, by the clock that goes on
// while the node is suspended.
//
// A timer of Go's runtime costs a sleeping process more than the work it wakes it for. The runtime's monitor thread wakes
// at the same moment, finds the timer late, since the kernel rounds a long wait by up to a thousandth, and looks again and
// again until it has fired: some 60 context switches each time. With a timerfd nothing is late, and there is nothing to
// look for. And a timer of Go stands still while the node is suspended.
//
// The package runs in every pod of podtoken's users: the standard library only.
package alarm

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// From linux/time.h and linux/timerfd.h; package syscall has no names for them.
const (
	clockBoottime = 7
	flags         = syscall.O_NONBLOCK | syscall.O_CLOEXEC
)

// Alarm rings once each time that it was set. Set is for one goroutine.
type Alarm struct {
	file  *os.File
	fd    uintptr // of file, whose own method would make it block a thread
	rings chan time.Time
}

// timerSpec is struct itimerspec.
type timerSpec struct{ interval, value syscall.Timespec }

// New makes an Alarm that is not set.
func New() (*Alarm, error) {
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, clockBoottime, flags, 0)
	if errno != 0 {
		return nil, fmt.Errorf("making a timer: %w", errno)
	}
	a := &Alarm{file: os.NewFile(fd, "timerfd"), fd: fd, rings: make(chan time.Time, 1)}
	go a.listen()
	return a, nil
}

// listen hands on what the kernel says, until the file is closed.
func (a *Alarm) listen() {
	expirations := make([]byte, 8)
	for {
		if _, err := a.file.Read(expirations); err != nil {
			return
		}
		a.ring()
	}
}

func (a *Alarm) ring() {
	select {
	case a.rings <- time.Now():
	default: // it rings already
	}
}

// Rings receives when the alarm rings. It may ring once for what it was set to before.
func (a *Alarm) Rings() <-chan time.Time { return a.rings }

// Set has the alarm ring after d, and not when it was to ring before.
func (a *Alarm) Set(d time.Duration) {
	// Zero would switch it off.
	spec := timerSpec{value: syscall.NsecToTimespec(int64(max(d, 1)))}
	//nolint:gosec // the kernel reads the struct during the call
	if _, _, errno := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, a.fd, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
		time.AfterFunc(d, a.ring) // never seen; a sleeper without an alarm would sleep for ever
	}
}

// Close releases the alarm, which rings no more.
func (a *Alarm) Close() error { return a.file.Close() }
