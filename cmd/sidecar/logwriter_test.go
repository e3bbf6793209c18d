package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// stuck is an output that nobody reads until it is released.
type stuck struct {
	release chan struct{}
	bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.release
	return s.Buffer.Write(p)
}

// A container runtime that does not read the log must not stop a refresh.
func TestALogThatNobodyReadsBlocksNobody(t *testing.T) {
	out := &stuck{release: make(chan struct{})}
	l := newLogWriter(out)
	for i := range 2 * bufferedLines {
		fmt.Fprintf(l, "line %d\n", i)
	}
	begun := time.Now()
	l.flush()
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("the end waited for %s", took)
	}
}

func TestLogLinesArriveInOrderAndWhatIsDroppedIsCounted(t *testing.T) {
	out := &stuck{release: make(chan struct{})}
	l := newLogWriter(out)
	for i := range bufferedLines + 100 {
		fmt.Fprintf(l, "line %d\n", i)
	}
	close(out.release)
	l.flush()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if lines[0] != "line 0" || lines[1] != "line 1" || !strings.Contains(lines[len(lines)-1], `"msg":"Log lines dropped, nobody read them","lines":`) {
		t.Errorf("%q", lines)
	}
	if n := len(lines); n < bufferedLines+1 || n > bufferedLines+3 {
		t.Errorf("%d lines", n)
	}
}
