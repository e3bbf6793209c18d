// Package sparselog limits log lines that any caller of a port can cause, so that strangers cannot fill the log.
//
// Lines about what the component decides go to its slog.Logger directly: they are never left out.
package sparselog

import (
	"context"
	"log/slog"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// Lines per second, and at once.
const (
	linesPerSecond = 5
	burst          = 20
)

// Logger leaves out lines when there are too many, and reports their number in the next line. It is safe for concurrent use.
type Logger struct {
	logger  *slog.Logger
	limiter *rate.Limiter
	leftOut atomic.Int64
}

// New returns a Logger with a limit of its own, so that lines about one thing do not displace lines about another.
func New(logger *slog.Logger) *Logger {
	return &Logger{logger: logger, limiter: rate.NewLimiter(linesPerSecond, burst)}
}

// Warn logs a line at level Warn, unless there were too many.
func (l *Logger) Warn(ctx context.Context, message string, attributes ...slog.Attr) {
	if !l.limiter.Allow() {
		l.leftOut.Add(1)
		return
	}
	if n := l.leftOut.Swap(0); n > 0 {
		attributes = append(attributes, slog.Int64("linesLeftOut", n))
	}
	l.logger.LogAttrs(ctx, slog.LevelWarn, message, attributes...)
}
