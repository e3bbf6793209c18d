package main

import (
	"runtime"
	"runtime/debug"
	"time"

	"github.com/podtoken/podtoken/internal/tokenrequest"
)

const (
	// maxRuntimeBytes is what Go's runtime may hold before it collects garbage by itself. At rest it holds some five million,
	// most of which are only reserved; a start with three tokens needs half a million more.
	maxRuntimeBytes = 9 << 20
	// freeAfter is how long after the last request memory is given back: the connection has been closed by then.
	freeAfter = 100 * time.Millisecond
)

// setThrifty has the runtime live as a process should that works for some milliseconds an hour, and is there in every pod.
// One processor is enough for what waits for the network all the time; each more costs threads, caches and wake-ups, on
// large nodes dozens of times. The garbage collector does not run by the clock, which would be every two minutes, but when
// the work is done: see thrifty.
func setThrifty() {
	runtime.MemProfileRate = 0 // the table of samples grows to a megabyte and a half, for nobody to read
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(maxRuntimeBytes)
}

// thrifty gives back what a batch of requests took. Garbage of a hundred refreshes would otherwise lie in each pod.
type thrifty struct {
	*tokenrequest.Client
	free *time.Timer
}

func newThrifty(client *tokenrequest.Client) thrifty {
	free := time.AfterFunc(time.Hour, debug.FreeOSMemory)
	free.Stop()
	return thrifty{client, free}
}

// Idle closes the connections.
func (t thrifty) Idle() {
	t.Client.Idle()
	t.free.Reset(freeAfter)
}
