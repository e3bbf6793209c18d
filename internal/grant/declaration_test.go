package grant

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/api"
)

// argument is one as the webhook writes it.
func argument(name string, seconds int64, audiences ...string) string {
	quoted := make([]string, len(audiences))
	for i, audience := range audiences {
		quoted[i] = fmt.Sprintf("%q", audience)
	}
	return fmt.Sprintf(`--token={"name":%q,"audiences":[%s],"expirationSeconds":%d,"path":%[1]q,"mode":"0400","refreshAtPercent":80}`,
		name, strings.Join(quoted, ","), seconds)
}

func TestParseTokens(t *testing.T) {
	tests := map[string]struct {
		args    []string
		want    []api.TokenSpec
		wantErr string
	}{
		"what is granted by of all tokens, in order": {
			args: []string{
				`--token={"name":"a","audiences":["x","y"],"expirationSeconds":600,"path":"p","mode":"0400","refreshAtPercent":80,"files":[{"path":"f"}]}`,
				`--token={"name":"b","audiences":["\u0024(X)"],"expirationSeconds":700}`,
			},
			want: []api.TokenSpec{
				{Name: "a", Audiences: []string{"x", "y"}, ExpirationSeconds: 600},
				{Name: "b", Audiences: []string{"$(X)"}, ExpirationSeconds: 700},
			},
		},
		"a name that is too long is cut": {
			args: []string{argument(strings.Repeat("n", 200), 600, "x")},
			want: []api.TokenSpec{{Name: strings.Repeat("n", 128), Audiences: []string{"x"}, ExpirationSeconds: 600}},
		},
		"no token":     {args: []string{"--notify=x"}, wantErr: "it has no argument --token"},
		"an empty one": {args: []string{"--token="}, wantErr: "argument --token is empty"},
		"not JSON":     {args: []string{"--token={"}, wantErr: "argument --token is not the JSON that the webhook writes: unexpected end of JSON input"},
		"of another type": {
			args:    []string{`--token={"name":"a","audiences":["x"],"expirationSeconds":"1h"}`},
			wantErr: `argument --token is not the JSON that the webhook writes: "expirationSeconds" is "1h", want a whole number of 64 bits`,
		},
		"what another version writes beside": {
			args: []string{`--token={"name":"a","audiences":["x"],"expirationSeconds":600,"new":{"a":1}}`},
			want: []api.TokenSpec{{Name: "a", Audiences: []string{"x"}, ExpirationSeconds: 600}},
		},
		"a name in another case": {
			args:    []string{`--token={"name":"a","audiences":["x"],"Audiences":["y"],"expirationSeconds":600}`},
			wantErr: `argument --token is not the JSON that the webhook writes: it has "Audiences", which must be spelled "audiences"`,
		},
		"a name twice": {
			args:    []string{`--token={"name":"a","audiences":["x"],"audiences":["y"],"expirationSeconds":600}`},
			wantErr: `argument --token is not the JSON that the webhook writes: "audiences" is there twice`,
		},
		"more than is read": {
			args:    []string{"--token=" + strings.Repeat("x", 256<<10)},
			wantErr: "its arguments --token have more than 262144 bytes together",
		},
		"more than is kept": {
			args:    []string{argument("a", 600, strings.Repeat("x", 72<<10))},
			wantErr: "its arguments --token have more than 73728 bytes of names and audiences together",
		},
		"many empty audiences": {
			args:    []string{argument("a", 600, slices.Repeat([]string{""}, 5000)...)},
			wantErr: "its arguments --token have more than 73728 bytes of names and audiences together",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseTokens(test.args)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff(test.wantErr, text); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("tokens (-want +got):\n%s", diff)
			}
		})
	}
}

// The largest pod that the webhook makes with the default of tokens.maxPerPod is read.
func TestTheLargestPodIsKept(t *testing.T) {
	var args []string
	for i := range 16 {
		var audiences []string
		for j := range api.MaxAudiences {
			audiences = append(audiences, fmt.Sprintf("%02d%d%s", i, j, strings.Repeat("x", 509)))
		}
		args = append(args, argument(fmt.Sprintf("%02d%s", i, strings.Repeat("n", api.MaxTokenNameLength-2)), 600, audiences...))
	}
	tokens, err := parseTokens(args)
	if err != nil || len(tokens) != 16 {
		t.Errorf("%d tokens, error %v", len(tokens), err)
	}
}

// A problem quotes what the pod's author wrote, and not all of it.
func TestProblemsAreCut(t *testing.T) {
	p := keep(newDeclarations(), "shop", []string{`--token={"name":"a","audiences":["x"],"expirationSeconds":` + strings.Repeat("1", 100_000) + `}`})
	d := p.declaration()
	if len(d.problem) != maxProblemBytes {
		t.Errorf("a problem of %d bytes, want %d: %.300s", len(d.problem), maxProblemBytes, d.problem)
	}
}
