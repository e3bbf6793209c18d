package report

import (
	"fmt"
	"strings"
)

// Table is a Markdown table. All columns but the first are numbers, as a rule, and to the right.
type Table struct {
	Head []string
	rows [][]string
}

// Row appends a row.
func (t *Table) Row(cells ...string) { t.rows = append(t.rows, cells) }

// String is the table as Markdown.
func (t *Table) String() string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(t.Head)
	b.WriteString("|---|" + strings.Repeat("---:|", len(t.Head)-1) + "\n")
	for _, row := range t.rows {
		line(row)
	}
	return b.String()
}
