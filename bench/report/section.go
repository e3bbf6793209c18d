// Package report writes what was measured as Markdown, into the sections of a document that people write around it.
package report

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// Replace puts content between the lines <!-- bench:NAME --> and <!-- /bench:NAME --> of the document. The lines must be
// there: where a table belongs, and what it means, is written by hand.
func Replace(document, name, content string) error {
	old, err := os.ReadFile(document) //nolint:gosec // the caller's document
	if err != nil {
		return err
	}
	begin, end := []byte("<!-- bench:"+name+" -->\n"), []byte("<!-- /bench:"+name+" -->\n")
	before, rest, found := bytes.Cut(old, begin)
	_, after, closed := bytes.Cut(rest, end)
	if !found || !closed {
		return fmt.Errorf("%s has no place for section %q: add the lines %q and %q where its table belongs", document, name, strings.TrimSpace(string(begin)), strings.TrimSpace(string(end)))
	}
	var b bytes.Buffer
	b.Write(before)
	b.Write(begin)
	b.WriteString("\n" + strings.TrimSpace(content) + "\n\n")
	b.Write(end)
	b.Write(after)
	return os.WriteFile(document, b.Bytes(), 0o644) //nolint:gosec // a document of the repository
}

// Publish prints a section, and puts it into the document, if one is given. It is how every command here ends.
func Publish(document, name, content string) error {
	fmt.Println(content)
	if document == "" {
		return nil
	}
	return Replace(document, name, content)
}
