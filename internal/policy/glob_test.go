package policy

import (
	"regexp"
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	tests := map[string]struct{ matches, others []string }{
		"vault":     {[]string{"vault"}, []string{"", "vaul", "vault2", "avault", "Vault"}},
		"*":         {[]string{"", "a", "*", "a/b", "ä"}, nil},
		"**":        {[]string{"", "a"}, nil},
		"pay-*":     {[]string{"pay-", "pay-eu", "pay-*"}, []string{"pay", "xpay-eu", "Pay-eu"}},
		"*-pay":     {[]string{"-pay", "eu-pay", "-pay-pay"}, []string{"pay", "eu-pay-x"}},
		"a*a":       {[]string{"aa", "aba", "aaa"}, []string{"a", "ab", "ba"}},
		"a*b*c":     {[]string{"abc", "axbxc", "abcbc", "abbc"}, []string{"ac", "acb", "abcd", "xabc"}},
		"*ab*ab*":   {[]string{"abab", "xabxabx"}, []string{"ab", "aba", "aab"}},
		"a*bc*c":    {[]string{"abcc", "abcxc"}, []string{"abc"}},
		"https://*": {[]string{"https://", "https://x/y?z"}, []string{"http://x", "https:/"}},
		// Nothing but the star is special.
		"a?c[d].{e,f}": {[]string{"a?c[d].{e,f}"}, []string{"abcd.e", "a?cdxe"}},
		`\*`:           {[]string{`\`, `\x`}, []string{"*"}},
	}
	for pattern, test := range tests {
		t.Run(pattern, func(t *testing.T) {
			g := newGlob(pattern)
			for _, s := range test.matches {
				if !g.match(s) {
					t.Errorf("does not match %q", s)
				}
			}
			for _, s := range test.others {
				if g.match(s) {
					t.Errorf("matches %q", s)
				}
			}
			if g.literal() == strings.Contains(pattern, "*") {
				t.Errorf("literal = %t", g.literal())
			}
		})
	}
}

// Patterns that make a matcher with backtracking go on for ever.
func TestGlobTakesNoTime(t *testing.T) {
	g := newGlob(strings.Repeat("*a", 200) + "b")
	if g.match(strings.Repeat("a", 500_000)) {
		t.Error("matches")
	}
}

// FuzzGlob: no pattern makes the matcher panic, and it agrees with regexp.
func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{{"", ""}, {"*", "x"}, {"a*b*c", "aXbYc"}, {"*ab*ab", "abab"}, {"ä*", "ä\xff"}, {"a.*", "a.b\n"}, {"aa*aa", "aaa"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := newGlob(pattern).match(s)
		parts := strings.Split(pattern, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		expression, err := regexp.Compile(`(?s)\A` + strings.Join(parts, `.*`) + `\z`)
		if err != nil {
			return // not UTF-8
		}
		if want := expression.MatchString(s); got != want {
			t.Errorf("%q, %q: %t, want %t", pattern, s, got, want)
		}
	})
}
