package config

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Store holds the last good value that was parsed from some files. Current may be called from any goroutine; Load and
// Watch are for one goroutine at a time.
type Store[T any] struct {
	paths  []string
	parse  func(contents [][]byte) (*T, error)
	advice string
	logger *slog.Logger

	current  atomic.Pointer[T]
	contents [][]byte // of current
	reported look     // the last problem that was counted and told to somebody
	metrics  metrics
	describe func(*T) []any
}

// settings are what tells one Store from another.
type settings[T any] struct {
	// noun begins the metrics' names: podtoken_<noun>_...
	noun string
	// paths of the files, in the order in which parse gets their contents.
	paths []string
	parse func(contents [][]byte) (*T, error)
	// advice ends every error: what to do about it.
	advice string
	// describe returns keys and values for the log, to recognise a value by.
	describe func(*T) []any
}

func newStore[T any](s settings[T], registry prometheus.Registerer, logger *slog.Logger) *Store[T] {
	return &Store[T]{
		paths:    s.paths,
		parse:    s.parse,
		advice:   s.advice,
		describe: s.describe,
		metrics:  newMetrics(s.noun, registry),
		logger:   logger.With("files", s.paths),
	}
}

// Current returns the last good value, nil before the first. It must not be changed.
func (s *Store[T]) Current() *T { return s.current.Load() }

// Load reads the files once. It is for the start of the process, where the caller decides what a bad file means.
func (s *Store[T]) Load() error {
	now := s.look()
	switch {
	case now.err != nil:
		s.metrics.failed()
		s.reported = now
	case now.changed:
		s.metrics.succeeded(time.Now())
	}
	return now.err
}

// Watch reads the files at every tick until ctx is done.
//
// A problem counts when two looks in a row see the same one: a look can fall between the writes to two files of a pair,
// or into the middle of one, and that is over by the next look. Each bad content is counted and logged once.
func (s *Store[T]) Watch(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var last look
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := s.look()
		switch {
		case now.err == nil && now.changed:
			s.metrics.succeeded(time.Now())
		case now.err == nil && s.reported.err != nil:
			s.metrics.succeeded(time.Now())
			s.logger.Info("Files are again those in use")
		case now.err != nil && now.sameProblem(last) && !now.sameProblem(s.reported):
			s.metrics.failed()
			s.logger.Error("Files refused, the last good ones stay in use", "error", now.err, "inUse", s.Current() != nil)
			s.reported = now
		}
		if now.err == nil {
			s.reported = look{}
		}
		last = now
	}
}

// look is what one reading of the files found.
type look struct {
	contents [][]byte
	changed  bool
	err      error
}

func (l look) sameProblem(other look) bool {
	return other.err != nil && l.err.Error() == other.err.Error() && slices.EqualFunc(l.contents, other.contents, bytes.Equal)
}

// look reads the files and replaces the current value if their contents are good and new.
func (s *Store[T]) look() look {
	contents := make([][]byte, len(s.paths))
	for i, path := range s.paths {
		var err error
		if contents[i], err = os.ReadFile(path); err != nil {
			return look{err: fmt.Errorf("reading %q: %w; %s", path, err, s.advice)}
		}
	}
	if slices.EqualFunc(contents, s.contents, bytes.Equal) {
		return look{contents: contents}
	}
	value, err := s.parse(contents)
	if err != nil {
		return look{contents: contents, err: fmt.Errorf("reading %s: %w; %s", quoted(s.paths), err, s.advice)}
	}
	s.contents = contents
	s.current.Store(value)
	s.logger.Info("Files taken into use", s.describe(value)...)
	return look{contents: contents, changed: true}
}

// quoted returns the paths for an error's text.
func quoted(paths []string) string {
	texts := make([]string, len(paths))
	for i, path := range paths {
		texts[i] = strconv.Quote(path)
	}
	return strings.Join(texts, " and ")
}
