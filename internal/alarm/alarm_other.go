//go:build !linux

package alarm

import "time"

// Alarm is a timer of Go's runtime where there is no other: developers' machines.
type Alarm struct{ timer *time.Timer }

// New makes an Alarm that is not set.
func New() (*Alarm, error) {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return &Alarm{timer}, nil
}

// Rings receives when the alarm rings.
func (a *Alarm) Rings() <-chan time.Time { return a.timer.C }

// Set has the alarm ring after d, and not when it was to ring before.
func (a *Alarm) Set(d time.Duration) { a.timer.Reset(d) }

// Close releases the alarm.
func (a *Alarm) Close() error {
	a.timer.Stop()
	return nil
}
