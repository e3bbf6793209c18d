package attack

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that the package's table names exists.
func TestTableNamesTests(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (?:\([^)]*\) )?(\w+)\(`)
	err = filepath.WalkDir(filepath.Join("..", ".."), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, match := range function.FindAllStringSubmatch(string(text), -1) {
			declared[match[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, pattern := range []string{`\b(?:Test|Fuzz)\w+`, `TestRacesAgainstWithdrawals: \w+`} {
		for _, name := range regexp.MustCompile(pattern).FindAllString(string(doc), -1) {
			name = name[strings.LastIndex(name, " ")+1:]
			if named++; !declared[name] {
				t.Errorf("there is no test %q", name)
			}
		}
	}
	if named < 40 {
		t.Errorf("the table names %d tests", named)
	}
}
