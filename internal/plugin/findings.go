package plugin

import (
	"encoding/json"
	"fmt"
	"io"

	"k8s.io/cli-runtime/pkg/printers"
)

// Level is how bad a Finding is.
type Level string

// Levels of findings.
const (
	OK      Level = "ok"
	Note    Level = "note"
	Warning Level = "warning"
	Problem Level = "problem"
)

// Finding is one thing that a command looked at, and what to do about it.
type Finding struct {
	Level Level  `json:"level"`
	Check string `json:"check"`
	Text  string `json:"text"`
}

// Findings are in the order in which they were found.
type Findings []Finding

// Add appends one.
func (f *Findings) Add(level Level, check, format string, args ...any) {
	*f = append(*f, Finding{level, check, fmt.Sprintf(format, args...)})
}

// Bad tells whether there is a problem.
func (f Findings) Bad() bool {
	for _, finding := range f {
		if finding.Level == Problem {
			return true
		}
	}
	return false
}

// Print writes one line for each.
func (f Findings) Print(w io.Writer) {
	table := Table(w)
	for _, finding := range f {
		table.Row(string(finding.Level), finding.Check, finding.Text)
	}
	table.Flush()
}

// PrintJSON writes a value for programs.
func PrintJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// Rows is a table that is aligned as those of kubectl.
type Rows struct {
	writer interface {
		io.Writer
		Flush() error
	}
}

// Table returns an empty table.
func Table(w io.Writer) *Rows { return &Rows{printers.GetNewTabWriter(w)} }

// Row adds a row of cells, which become Plain.
func (r *Rows) Row(cells ...string) {
	for i, cell := range cells {
		if i > 0 {
			_, _ = io.WriteString(r.writer, "\t")
		}
		_, _ = io.WriteString(r.writer, Plain(cell))
	}
	_, _ = io.WriteString(r.writer, "\n")
}

// Flush writes the table.
func (r *Rows) Flush() { _ = r.writer.Flush() }

// OutputJSON is the value of --output for programs.
const OutputJSON = "json"

// CheckOutput checks the value of --output.
func CheckOutput(output string) error {
	if output != "" && output != OutputJSON {
		return fmt.Errorf("--output: %q is not known: use json, or leave it out", output)
	}
	return nil
}
