package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)

// tests returns the names of all tests of both modules.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == ".git":
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		data, err := os.ReadFile(path)
		for _, m := range testFunction.FindAllStringSubmatch(string(data), -1) {
			found[m[1]] = true
		}
		return err
	})
	if err != nil || len(found) < 200 {
		t.Fatalf("%d tests were found, %v", len(found), err)
	}
	return found
}

// items returns the items of the lists in a text, each as one line.
func items(text string) (found []string) {
	inItem := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "- "):
			found, inItem = append(found, strings.TrimPrefix(line, "- ")), true
		case inItem && strings.HasPrefix(line, "  "):
			found[len(found)-1] += " " + strings.TrimSpace(line)
		default:
			inItem = false
		}
	}
	return found
}

// holders is the end of a sentence of the contract: the tests that hold it, or that there is none.
var holders = regexp.MustCompile("\\((?:Not tested|(`(?:Test|Fuzz)\\w+`(?:, `(?:Test|Fuzz)\\w+`)*))\\)$")

// Each sentence of the contract ends with the tests that hold it, and these exist.
func TestContractNamesItsTests(t *testing.T) {
	all, sentences := tests(t), 0
	for _, item := range items(read(t, "docs/contract.md")) {
		if strings.HasPrefix(item, "[") {
			continue // the table of contents
		}
		sentences++
		m := holders.FindStringSubmatch(item)
		if m == nil {
			t.Errorf("no tests at the end of %q", item)
			continue
		}
		for _, name := range codes(m[1]) {
			if !all[name] {
				t.Errorf("there is no test %s, of which docs/contract.md says that it holds %q", name, item)
			}
		}
	}
	if sentences < 50 {
		t.Errorf("only %d sentences were found", sentences)
	}
}
