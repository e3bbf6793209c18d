package httpserver

import (
	"context"
	stdlog "log"
	"log/slog"
	"strings"

	"github.com/podtoken/podtoken/internal/sparselog"
)

// newErrorLog takes the lines that net/http's servers write: about a handler that panicked, with the caller's address in
// its text, and about the listener.
func newErrorLog(logger *slog.Logger) *stdlog.Logger {
	return stdlog.New(serverLines{sparselog.New(logger)}, "", 0)
}

type serverLines struct{ log *sparselog.Logger }

func (l serverLines) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	_, remote, _ := strings.Cut(text, "http: panic serving ")
	remote, _, _ = strings.Cut(remote, ": ")
	l.log.Warn(context.Background(), "HTTP server had a problem with a connection", slog.String("problem", text), slog.String("remoteAddress", remote))
	return len(line), nil
}
