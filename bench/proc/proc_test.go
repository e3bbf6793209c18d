package proc

import (
	"os"
	"testing"
	"time"
)

// This process has memory, and works while it is asked to.
func TestOfThisProcess(t *testing.T) {
	memory, err := MemoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if memory.Anonymous < 100<<10 || memory.RSS <= memory.Anonymous || memory.Pss <= 0 || memory.Pss > memory.RSS {
		t.Errorf("%+v", memory)
	}
	peak, err := PeakOf(os.Getpid())
	if err != nil || peak < memory.RSS/2 {
		t.Errorf("peak %v, %v", peak, err)
	}
	before, err := WorkOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		after, err := WorkOf(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if did := after.Since(before); did.CPU > 5*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no work was seen of a busy loop")
		}
	}
}

func TestAProcessThatHasEnded(t *testing.T) {
	const nobody = 1 << 30
	if _, err := WorkOf(nobody); err == nil {
		t.Error("work of nobody")
	}
	if _, err := MemoryOf(nobody); err == nil {
		t.Error("memory of nobody")
	}
}
