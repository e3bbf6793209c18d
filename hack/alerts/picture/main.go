// Command picture draws the chart's dashboard as an SVG, from a recording of a real installation (e2e/cmd/record): the
// recording goes into a Prometheus' storage, the panels' queries go through its engine, and what they answer is drawn where
// Grafana would draw it. `make picture` does all of it.
//
//	go run ./picture --recording RECORDING --board ../../charts/podtoken/files/dashboard.json --to ../../docs/dashboard.svg
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/podtoken/podtoken/hack/alerts/board"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("picture", flag.ContinueOnError)
	from := flags.String("recording", "", "what e2e/cmd/record wrote")
	of := flags.String("board", "", "the dashboard")
	to := flags.String("to", "", "the picture that is written")
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*of)
	if err != nil {
		return err
	}
	dashboard, err := board.Parse(text)
	if err != nil {
		return err
	}
	file, err := os.Open(*from)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	seen, err := load(ctx, file)
	if err != nil {
		return err
	}
	defer func() { _ = seen.Close() }()
	results, err := evaluate(ctx, seen, dashboard)
	if err != nil {
		return err
	}
	picture, err := draw(dashboard, seen, results)
	if err != nil {
		return err
	}
	//nolint:gosec // a document
	if err := os.WriteFile(*to, []byte(picture), 0o644); err != nil {
		return err
	}
	if empty := emptyPanels(dashboard, results); len(empty) > 0 {
		return fmt.Errorf("nothing is to be seen in %s: have the scenario in e2e/cmd/record make something of it", strings.Join(empty, ", "))
	}
	return nil
}

// emptyPanels are the titles of panels that show nothing.
func emptyPanels(b board.Board, results map[int][]series) []string {
	var empty []string
	for i := range b.Panels {
		if p := &b.Panels[i]; p.Type != rowType && len(results[p.ID]) == 0 {
			empty = append(empty, fmt.Sprintf("%q", p.Title))
		}
	}
	return empty
}
