package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// bufferedLines is how many lines of the log may wait.
const bufferedLines = 256

// logWriter hands lines on without ever blocking: the log is written by the goroutine that refreshes tokens, and a
// container runtime that does not read it would stop that. What does not fit is dropped, and counted.
type logWriter struct {
	lines   chan []byte // nil asks for done
	done    chan struct{}
	dropped atomic.Uint64
}

// newLogWriter starts to write to w; the goroutine lives as long as the process.
func newLogWriter(w io.Writer) *logWriter {
	l := &logWriter{lines: make(chan []byte, bufferedLines), done: make(chan struct{})}
	go func() {
		for line := range l.lines {
			if line != nil {
				_, _ = w.Write(line)
			}
			// What was dropped is younger than all that waits.
			if n := l.dropped.Load(); n > 0 && len(l.lines) == 0 {
				l.dropped.Add(-n)
				_, _ = fmt.Fprintf(w, `{"time":%q,"level":"WARN","msg":"Log lines dropped, nobody read them","lines":%d}`+"\n",
					time.Now().UTC().Format(time.RFC3339Nano), n)
			}
			if line == nil {
				close(l.done)
				return
			}
		}
	}()
	return l
}

// Write takes one line. It never fails.
func (l *logWriter) Write(line []byte) (int, error) {
	select {
	case l.lines <- append([]byte(nil), line...):
	default:
		l.dropped.Add(1)
	}
	return len(line), nil
}

// flush waits until every line is written, but not long. Nothing may be logged afterwards.
func (l *logWriter) flush() {
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	select {
	case l.lines <- nil:
	case <-limit.C:
		return
	}
	select {
	case <-l.done:
	case <-limit.C:
	}
}
