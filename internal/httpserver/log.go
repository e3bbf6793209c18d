package httpserver

import (
	stdlog "log"
	"log/slog"
	"strings"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// Lines a second, and at once, about connections: strangers must not fill the log.
const (
	logRate  = 5
	logBurst = 20
)

// sparseLog leaves lines out when there are too many, and counts them in the next one.
type sparseLog struct {
	logger  *slog.Logger
	limiter *rate.Limiter
	leftOut atomic.Int64
}

func newSparseLog(logger *slog.Logger) *sparseLog {
	return &sparseLog{logger: logger, limiter: rate.NewLimiter(logRate, logBurst)}
}

func (l *sparseLog) warn(message string, attributes ...any) {
	if !l.limiter.Allow() {
		l.leftOut.Add(1)
		return
	}
	if n := l.leftOut.Swap(0); n > 0 {
		attributes = append(attributes, "linesLeftOut", n)
	}
	l.logger.Warn(message, attributes...)
}

// newErrorLog takes the lines that net/http's servers write: about a handler that panicked, with the caller's address in
// its text, and about the listener.
func newErrorLog(logger *slog.Logger) *stdlog.Logger {
	return stdlog.New(serverLines{newSparseLog(logger)}, "", 0)
}

type serverLines struct{ log *sparseLog }

func (l serverLines) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	_, remote, _ := strings.Cut(text, "http: panic serving ")
	remote, _, _ = strings.Cut(remote, ": ")
	l.log.warn("HTTP server had a problem with a connection", "problem", text, "remoteAddress", remote)
	return len(line), nil
}
