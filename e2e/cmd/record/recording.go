package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"
)

// interval is how often everything is scraped.
const interval = 5 * time.Second

// line is a line of the recording: an event, or what one target answered.
type line struct {
	// Time is in milliseconds since 1970.
	Time int64 `json:"time"`
	// Event is what was done at that time, for people.
	Event string `json:"event,omitempty"`
	// Labels are those that a Prometheus gives to the target.
	Labels map[string]string `json:"labels,omitempty"`
	// Text is the exposition, in Prometheus' text format; empty when the target did not answer.
	Text string `json:"text,omitempty"`
}

// record plays the scenario to its end and writes what was seen meanwhile.
func record(ctx context.Context, s *scenario, scrapes *scraper, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu      sync.Mutex
		encoder = json.NewEncoder(out)
		failed  error
	)
	write := func(lines ...line) {
		mu.Lock()
		defer mu.Unlock()
		for _, one := range lines {
			failed = errors.Join(failed, encoder.Encode(one))
		}
	}
	var scraping sync.WaitGroup
	scraping.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			lines := scrapes.all(ctx)
			if ctx.Err() != nil {
				return // what was cut short looks as if nobody had answered
			}
			write(lines...)
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	err := s.play(ctx, func(event string) { write(line{Time: time.Now().UnixMilli(), Event: event}) })
	cancel()
	scraping.Wait()
	return errors.Join(err, failed)
}
