package serve

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// health tells whether the loop turns. The monotonic clock is what counts: it stands still together with the loop while
// a node is suspended.
func (s *Server) health() answer {
	beat := s.started
	if last := s.last.Load(); last != nil {
		beat = last.at
	}
	if age := time.Since(beat); age > maxBeatAge {
		return plain(http.StatusServiceUnavailable, fmt.Sprintf("the sidecar's loop has not turned for %s", age.Round(time.Second)))
	}
	return plain(http.StatusOK, "ok")
}

// ready tells whether every token is there and has not expired, with a line for each that is not.
func (s *Server) ready() answer {
	last := s.last.Load()
	if last == nil {
		return plain(http.StatusServiceUnavailable, "no token file was looked at yet")
	}
	var lines []string
	now := time.Now()
	for _, t := range last.snapshot.Tokens {
		switch {
		case t.Ends.IsZero():
			lines = append(lines, fmt.Sprintf("token %q does not exist yet", t.Name))
		case !now.Before(t.Ends):
			lines = append(lines, fmt.Sprintf("token %q expired %s ago, at %s by this node's clock", t.Name,
				now.Sub(t.Ends).Round(time.Second), t.Ends.UTC().Format(time.RFC3339)))
		}
	}
	if lines != nil {
		return plain(http.StatusServiceUnavailable, strings.Join(lines, "\n"))
	}
	return plain(http.StatusOK, "ok")
}
