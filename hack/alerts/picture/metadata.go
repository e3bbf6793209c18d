package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/podtoken/podtoken/hack/alerts/board"
)

// about is what a picture says of itself, so that a test can tell whether it is of the dashboard that there is.
type about struct {
	// Queries is the hash of all queries and of how they are shown.
	Queries  string       `json:"queries"`
	Recorded string       `json:"recorded"`
	Panels   []aboutPanel `json:"panels"`
}

type aboutPanel struct {
	ID     int    `json:"id"`
	Title  string `json:"title"`
	Series int    `json:"series"`
}

func describe(b board.Board, results map[int][]series, recorded time.Time) (string, error) {
	a := about{Queries: hash(b), Recorded: recorded.UTC().Format(time.DateOnly)}
	for i := range b.Panels {
		if p := &b.Panels[i]; p.Type != rowType {
			a.Panels = append(a.Panels, aboutPanel{p.ID, p.Title, len(results[p.ID])})
		}
	}
	text, err := json.Marshal(a)
	return string(text), err
}

// hash changes with everything of a board that a picture shows.
func hash(b board.Board) string {
	h := sha256.New()
	encoder := json.NewEncoder(h)
	for i := range b.Panels {
		p := b.Panels[i]
		p.Description = ""
		_ = encoder.Encode(p) // a hash takes everything, and a panel came from JSON
	}
	return hex.EncodeToString(h.Sum(nil))
}

// labelNames are the names of all labels of series, sorted.
func labelNames(all []series) []string {
	names := map[string]bool{}
	for _, s := range all {
		s.labels.Range(func(l labels.Label) { names[l.Name] = true })
	}
	return slices.Sorted(maps.Keys(names))
}
