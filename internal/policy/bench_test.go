package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
)

// largePolicy has 100 rules, with what is asked for in the last.
func largePolicy() string {
	var text strings.Builder
	text.WriteString(header + "allow:\n")
	for i := range 99 {
		fmt.Fprintf(&text, "- {namespaces: ['team-%d-*', 'shared-*'], serviceAccounts: ['*'], audiences: ['vault-%d', 'https://*.team-%d.example.com']}\n", i, i, i)
	}
	text.WriteString("- {namespaces: ['*-shop'], serviceAccounts: ['web*'], audiences: ['https://*.example.com/*']}\n")
	return text.String()
}

// BenchmarkCheck: one token against 100 rules, of which all or one match the namespace.
func BenchmarkCheck(b *testing.B) {
	p := mustParse(b, largePolicy())
	for name, namespace := range map[string]string{"one-matches": "team-x-shop", "all-match": "shared-shop"} {
		request := Request{namespace, "web-1", []api.TokenSpec{token("a", "https://billing.example.com/v1")}, apiServer}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if p.Check(request) != nil {
					b.Fatal("refused")
				}
			}
		})
	}
	b.Run("refused", func(b *testing.B) {
		request := Request{"shared-shop", "web-1", []api.TokenSpec{token("a", "other")}, apiServer}
		b.ReportAllocs()
		for b.Loop() {
			if p.Check(request) == nil {
				b.Fatal("allowed")
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	data := []byte(largePolicy())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}
