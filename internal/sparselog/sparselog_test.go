package sparselog

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Every line is either in the log or counted in the next one.
func TestLinesLeftOutAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := New(slog.New(slog.NewJSONHandler(&log, nil)))
		for range 1000 {
			l.Warn(t.Context(), "Stranger", slog.String("remoteAddress", "192.0.2.1:4711"))
		}
		if got := strings.Count(log.String(), "\n"); got != burst {
			t.Errorf("%d lines at once, want %d", got, burst)
		}
		if strings.Contains(log.String(), "linesLeftOut") {
			t.Errorf("nothing was left out before: %s", log.String())
		}
		log.Reset()
		time.Sleep(time.Minute)
		l.Warn(t.Context(), "Stranger")
		l.Warn(t.Context(), "Stranger")
		first, second, _ := strings.Cut(log.String(), "\n")
		if !strings.Contains(first, `"level":"WARN","msg":"Stranger","linesLeftOut":980`) || strings.Contains(second, "linesLeftOut") {
			t.Errorf("log:\n%s", log.String())
		}
	})
}

func TestLimitsAreSeparate(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	one, other := New(logger), New(logger)
	for range 1000 {
		one.Warn(t.Context(), "one")
	}
	other.Warn(t.Context(), "other")
	if !strings.Contains(log.String(), `"other"`) {
		t.Error("a flood of one thing displaces a line about another")
	}
}
