package compile

import (
	"strings"
	"testing"
	"time"
)

// Templates that would take an API server's patience or a node's memory are refused, or compiled in no time to something small;
// e2e/attack/doc.go has the rest.
func TestTemplatesThatAreAttacks(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"3,000 parentheses": {"{{" + strings.Repeat("(", 3000) + ".token" + strings.Repeat(")", 3000) + "}}", ""},
		"500 ifs":           {strings.Repeat("{{if 1}}", 500) + "x" + strings.Repeat("{{end}}", 500), ""},
		"500 times all":     {strings.Repeat("{{len (json .)}}", 500), "make too much text"},
		"json of json":      {"{{$x := json .}}" + strings.Repeat("{{$x = json $x}}", 300) + "{{$x}}", "make too much text"},
		"base64 of base64":  {"{{$x := json .}}" + strings.Repeat("{{$x = base64 $x}}", 300) + "{{$x}}", "make too much text"},
		"join of join":      {"{{$x := .token}}" + strings.Repeat("{{$x = join .audiences $x}}", 200) + "{{$x}}", "make too much text"},
	} {
		start := time.Now()
		_, err := Template(test.text, []string{"vault", "https://b.example.com"})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
}
