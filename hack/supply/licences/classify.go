package main

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	classifier "github.com/google/licenseclassifier/v2"
	"github.com/google/licenseclassifier/v2/assets"
)

// allowed are the licences that what we link may have. They ask for nothing but that their text goes with the binary,
// which it does. A licence that asks for more is a decision for people, not for this list to grow by.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"}

// strayLines is how many lines of a licence file may be something else than a licence, a title for instance. More may be
// a condition that nobody has read.
const strayLines = 3

// reviewed are texts, by their SHA-256, in which somebody has read the lines that belong to no known licence.
var reviewed = map[string]string{
	"5dc79da695aea39a47245008a168e3f7d461b686da8bec299fd55fee0393cbcc": "sigs.k8s.io/yaml: which of its files has which licence",
	"a94710b55e03b5285f77d048c5ba61bb9d6ee04a06c0eb90e68821e11b0c707a": "go.yaml.in/yaml/v2: which of its files come from libyaml",
	"d18f6323b71b0b768bb5e9616e36da390fbd39369a81807cca352de4e4e6aa0b": "go.yaml.in/yaml/v3: which of its files come from libyaml",
}

type licences struct{ classifier *classifier.Classifier }

func newLicences() (*licences, error) {
	c, err := assets.DefaultClassifier()
	if err != nil {
		return nil, fmt.Errorf("loading the texts of known licences: %w", err)
	}
	return &licences{c}, nil
}

// of returns the names of the licences in a text, or why it must not be shipped.
func (l *licences) of(text string) ([]string, error) {
	var names []string
	lines := strings.Split(text, "\n")
	known := make([]bool, len(lines))
	for _, match := range l.classifier.Match([]byte(text)).Matches {
		for i := max(match.StartLine-1, 0); i < min(match.EndLine, len(known)); i++ {
			known[i] = true
		}
		if match.MatchType != "Copyright" { // a header of a licence grants it too
			names = append(names, match.Name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil, fmt.Errorf("is no licence that is known")
	}
	for _, name := range names {
		if !slices.Contains(allowed, name) {
			return nil, fmt.Errorf("is licensed under %s, which is not one of %s", name, strings.Join(allowed, ", "))
		}
	}
	var stray []string
	for i, line := range lines {
		if strings.TrimSpace(line) != "" && !known[i] {
			stray = append(stray, line)
		}
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text))); len(stray) > strayLines && reviewed[sum] == "" {
		return nil, fmt.Errorf("has %d lines that belong to no known licence: %q", len(stray), stray)
	}
	return names, nil
}
