package policy

import "strings"

// glob is a pattern in which '*' stands for any sequence of characters, the empty one included, and nothing else is
// special.
type glob struct {
	text string
	// parts are what stands between the stars; a single one when there is none.
	parts []string
}

func newGlob(text string) glob { return glob{text: text, parts: strings.Split(text, "*")} }

// literal tells whether the pattern matches nothing but its own text.
func (g glob) literal() bool { return len(g.parts) == 1 }

// match takes the leftmost place for each part, which leaves the most for the next: there is nothing to go back for.
func (g glob) match(s string) bool {
	if g.literal() {
		return s == g.text
	}
	first, last := g.parts[0], g.parts[len(g.parts)-1]
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range g.parts[1 : len(g.parts)-1] {
		at := strings.Index(s, part)
		if at < 0 {
			return false
		}
		s = s[at+len(part):]
	}
	return true
}

// globs match what one of them matches.
type globs []glob

func newGlobs(texts []string) globs {
	compiled := make(globs, len(texts))
	for i, text := range texts {
		compiled[i] = newGlob(text)
	}
	return compiled
}

func (gs globs) match(s string) bool {
	for i := range gs {
		if gs[i].match(s) {
			return true
		}
	}
	return false
}

// name tells whether one of them is literally s.
func (gs globs) name(s string) bool {
	for i := range gs {
		if gs[i].literal() && gs[i].text == s {
			return true
		}
	}
	return false
}
