package grant

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
)

// declaredByHand are arguments of sidecars that pod authors wrote themselves, from a security review.
var declaredByHand = []string{
	`{"name":"a","audiences":["vault"],"expirationSeconds":600}`,
	`{"name":"a","audiences":["vault"],"audiences":["other"],"expirationSeconds":600}`, // a duplicate key
	`{"Name":"a","AUDIENCES":["vault"],"ExpirationSeconds":600}`,                       // another case
	`{"name":"a","\u0061udiences":["v\u0061ult"],"expirationSeconds":600}`,
	`{"name":"a","audiences":["vault"],"expirationSeconds":600}{"name":"b","audiences":["other"],"expirationSeconds":600}`,
	`[{"name":"a","audiences":["vault"],"expirationSeconds":600}]`,
	`null`, `""`, `{}`, ``, "\xff",
	`{"name":"a","audiences":null,"expirationSeconds":600}`,
	`{"name":"a","audiences":[],"expirationSeconds":600}`,
	`{"name":"a","audiences":[null,""],"expirationSeconds":600}`,
	`{"name":"a","audiences":["1","2","3","4","5","6","7","8","9"],"expirationSeconds":600}`,
	`{"name":"a","audiences":["vault ","vault\u200b","*","$(AUD)"],"expirationSeconds":600}`,
	`{"name":"a","audiences":["vault"],"expirationSeconds":3607}`,
	`{"name":"a","audiences":["vault"],"expirationSeconds":4294967296}`,
	`{"name":"a","audiences":["vault"],"expirationSeconds":9223372036854775808}`,
	`{"name":"a","audiences":["vault"],"expirationSeconds":-600}`,
	`{"name":"a","audiences":["vault"],"expirationSeconds":600.0}`,
	`{"name":"a","audiences":["vault"],"expirationSeconds":6e2}`,
	`{"name":"` + strings.Repeat("n", 200) + `","audiences":["vault"]}`,
}

// FuzzParseTokens: of any two arguments, what is read is little, and is the same when it is written and read again: nothing depends on how a
// pod author spelled it. One argument that cannot be read makes the others count for nothing.
func FuzzParseTokens(f *testing.F) {
	for _, text := range declaredByHand {
		f.Add("--token="+text, "--token="+declaredByHand[0])
		f.Add("-token="+text, "--token\n"+text)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		got, err := parseTokens([]string{first, second})
		if err != nil {
			if got != nil {
				t.Errorf("%d tokens beside error %v", len(got), err)
			}
			return
		}
		want := 0
		for _, arg := range []string{first, second} {
			if strings.HasPrefix(arg, "--token=") {
				want++
			}
		}
		if len(got) != want || want == 0 || sizeOf(got) > maxDeclaredBytes {
			t.Fatalf("%d tokens of %d bytes of %d arguments", len(got), sizeOf(got), want)
		}
		var again []string
		for _, token := range got {
			text, err := json.Marshal(token)
			if err != nil {
				t.Fatal(err)
			}
			again = append(again, "--token="+string(text))
		}
		reread, err := parseTokens(again)
		if err != nil || !slices.EqualFunc(got, reread, func(a, b api.TokenSpec) bool {
			return a.Name == b.Name && a.ExpirationSeconds == b.ExpirationSeconds && slices.Equal(a.Audiences, b.Audiences)
		}) {
			t.Errorf("read %+v, then %+v, %v", got, reread, err)
		}
	})
}
