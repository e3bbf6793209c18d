// Command chart prints the chart's README.md with the table of values made from values.yaml, whose comments are the
// only documentation of the values. hack/chart/render.sh calls it:
//
//	go run ./hack/chart charts/podtoken/values.yaml charts/podtoken/README.md
//
// The tests of this package hold what can be checked of the chart and the manifests without helm.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "hack/chart:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("got %d arguments, want 2: the paths of values.yaml and README.md", len(args))
	}
	source, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	readme, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	values, err := parseValues(string(source))
	if err != nil {
		return fmt.Errorf("reading %s: %w", args[0], err)
	}
	updated, err := withTable(string(readme), values)
	if err != nil {
		return fmt.Errorf("reading %s: %w", args[1], err)
	}
	_, err = io.WriteString(stdout, updated)
	return err
}
