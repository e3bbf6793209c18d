package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// The manual names every command and flag of ours, in its section, and no flag that does not exist.
func TestManual(t *testing.T) {
	content, err := os.ReadFile("../../docs/kubectl-podtoken.md")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(content)
	root := newRoot(newTestEnv(&bytes.Buffer{}))
	known := map[string]bool{"help": true}
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	for _, command := range commands(root) {
		path := strings.Fields(command.CommandPath())[2:]
		_, section, ok := strings.Cut(manual, "\n## "+path[0]+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		if !ok || !strings.Contains(section, strings.Join(path, " ")) {
			t.Errorf("the manual does not name %q in a section of its own", command.CommandPath())
		}
		command.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if root.PersistentFlags().Lookup(f.Name) != nil || f.Name == "help" {
				return
			}
			known[f.Name] = true
			want := "`--" + f.Name + "`"
			if f.Shorthand != "" {
				want += ", `-" + f.Shorthand + "`"
			}
			if !strings.Contains(section, "| "+want+" |") {
				t.Errorf("the manual has no row for %s of %q", want, command.CommandPath())
			}
		})
	}
	for _, match := range regexp.MustCompile("--([a-z][a-z-]*)").FindAllStringSubmatch(manual, -1) {
		if !known[match[1]] {
			t.Errorf("the manual names the flag --%s, which does not exist", match[1])
		}
	}
	if !strings.Contains(manual, "`--podtoken-namespace`") {
		t.Error("the manual does not name --podtoken-namespace")
	}
}
