package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// line is a line of a recording, as e2e/cmd/record writes it.
type line struct {
	Time   int64             `json:"time"`
	Event  string            `json:"event"`
	Labels map[string]string `json:"labels"`
	Text   string            `json:"text"`
}

// event is something that was done to the installation.
type event struct {
	at   time.Time
	text string
}

// recording is what was seen of an installation.
type recording struct {
	*tsdb.DB
	dir        string
	begin, end time.Time
	// interval is the time between two scrapes of the same.
	interval time.Duration
	events   []event
}

// load reads a recording into a storage of its own, which Close removes.
func load(ctx context.Context, from io.Reader) (*recording, error) {
	dir, err := os.MkdirTemp("", "podtoken-picture-")
	if err != nil {
		return nil, err
	}
	options := tsdb.DefaultOptions()
	options.RetentionDuration = 0
	db, err := tsdb.Open(dir, nil, nil, options, tsdb.NewDBStats())
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	r := &recording{DB: db, dir: dir}
	if err := r.read(ctx, bufio.NewReader(from)); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the recording: %w", err), r.Close())
	}
	return r, nil
}

// Close removes the storage.
func (r *recording) Close() error { return errors.Join(r.DB.Close(), os.RemoveAll(r.dir)) }

func (r *recording) read(ctx context.Context, from io.Reader) error {
	decoder := json.NewDecoder(from)
	last := map[string]scrape{} // by target
	var round int64             // the time of the targets that were read last
	for {
		var one line
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if one.Labels == nil {
			at := time.UnixMilli(one.Time)
			if one.Event == "" {
				r.begin = at
			} else {
				r.events = append(r.events, event{at, one.Event})
			}
			continue
		}
		if round != one.Time && round != 0 {
			r.interval = time.Duration(one.Time-round) * time.Millisecond
			if err := r.forget(ctx, last, round); err != nil {
				return err
			}
		}
		round = one.Time
		r.end = time.UnixMilli(one.Time)
		if err := r.add(ctx, last, one); err != nil {
			return err
		}
	}
	if r.begin.IsZero() || !r.end.After(r.begin) {
		return errors.New("it has no beginning, or no scrapes after it")
	}
	r.interval = r.interval.Round(time.Second)
	return nil
}

// scrape is what a target said last, and when.
type scrape struct {
	time   int64
	series map[string]labels.Labels
}

// add adds what a target said, and ends the series that it does not have any more, as a Prometheus does.
func (r *recording) add(ctx context.Context, last map[string]scrape, one line) error {
	target := labels.FromMap(one.Labels)
	now := map[string]labels.Labels{}
	appender := r.Appender(ctx)
	set := func(series labels.Labels, v float64) error {
		b := labels.NewBuilder(series)
		target.Range(func(l labels.Label) { b.Set(l.Name, l.Value) })
		series = b.Labels()
		now[series.String()] = series
		return appendOne(appender, series, one.Time, v)
	}
	up := 0.0
	if one.Text != "" {
		up = 1
	}
	err := set(labels.FromStrings(model.MetricNameLabel, "up"), up)
	parser := textparse.NewPromParser([]byte(one.Text), labels.NewSymbolTable(), false)
	for err == nil {
		var entry textparse.Entry
		if entry, err = parser.Next(); err == nil && entry == textparse.EntrySeries {
			var series labels.Labels
			parser.Labels(&series)
			_, _, v := parser.Series()
			err = set(series, v)
		}
	}
	if !errors.Is(err, io.EOF) {
		return errors.Join(fmt.Errorf("what %s said: %w", target, err), appender.Rollback())
	}
	for key, series := range last[target.String()].series {
		if now[key].IsEmpty() {
			if err := appendOne(appender, series, one.Time, math.Float64frombits(value.StaleNaN)); err != nil {
				return err
			}
		}
	}
	last[target.String()] = scrape{one.Time, now}
	return appender.Commit()
}

// forget ends all series of targets that were not among those of a round.
func (r *recording) forget(ctx context.Context, last map[string]scrape, round int64) error {
	appender := r.Appender(ctx)
	for target, s := range last {
		if s.time == round {
			continue
		}
		for _, series := range s.series {
			if err := appendOne(appender, series, round, math.Float64frombits(value.StaleNaN)); err != nil {
				return err
			}
		}
		delete(last, target)
	}
	return appender.Commit()
}

func appendOne(appender storage.Appender, series labels.Labels, at int64, v float64) error {
	_, err := appender.Append(0, series, at, v)
	return err
}
