package alarm

import (
	"testing"
	"time"
)

func open(t *testing.T) *Alarm {
	t.Helper()
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func TestItRingsInTime(t *testing.T) {
	a := open(t)
	for _, d := range []time.Duration{0, -time.Second, time.Millisecond, 50 * time.Millisecond} {
		began := time.Now()
		a.Set(d)
		select {
		case <-a.Rings():
			if took := time.Since(began); took < d {
				t.Errorf("set to %s it rang after %s", d, took)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("set to %s it did not ring within 10 s", d)
		}
	}
}

func TestOnlyTheLastTimeCounts(t *testing.T) {
	a := open(t)
	a.Set(20 * time.Millisecond)
	a.Set(time.Hour)
	select {
	case <-a.Rings():
		t.Error("it rang for what it was set to before")
	case <-time.After(200 * time.Millisecond):
	}
	a.Set(time.Millisecond)
	<-a.Rings()
	select {
	case <-a.Rings():
		t.Error("it rang twice")
	case <-time.After(100 * time.Millisecond):
	}
}

func TestNobodyHasToListen(t *testing.T) {
	a := open(t)
	for range 10 {
		a.Set(0)
		time.Sleep(2 * time.Millisecond)
	}
	<-a.Rings()
}

func TestAClosedAlarmIsSilent(t *testing.T) {
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	a.Set(20 * time.Millisecond)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.Rings():
		t.Error("it rang")
	case <-time.After(100 * time.Millisecond):
	}
}
