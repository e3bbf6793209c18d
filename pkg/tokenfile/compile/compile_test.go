package compile

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

// claims are those of a token of kube-apiserver.
const claims = `{"aud":["vault","https://b.example.com"],"exp":1790003600,"iat":1790000000,"iss":"https://kubernetes.default.svc","jti":"j-1",
	"kubernetes.io":{"namespace":"shop","node":{"name":"n-1","uid":"u-n"},"pod":{"name":"cart-1","uid":"u-p"},"serviceaccount":{"name":"cart","uid":"u-s"},"warnafter":1790003600},
	"nbf":1790000000,"sub":"system:serviceaccount:shop:cart"}`

func values(claims string) tokenfile.Values {
	return tokenfile.Values{
		Token: jwttest.EncodeJSON(map[string]any{"alg": "RS256", "kid": "k"}, json.RawMessage(claims), make([]byte, 256)), Audiences: []string{"vault", "https://b.example.com"},
		Expiry:  time.Unix(1790003600, 0),
		Pod:     tokenfile.Pod{Name: "cart-1", Namespace: "shop", UID: "u-p", ServiceAccount: "cart"},
		Cluster: tokenfile.Cluster{Server: "https://10.0.0.1:443", CA: "-----BEGIN CERTIFICATE-----\n"},
	}
}

// execute compiles, sends the steps as the webhook sends them to the sidecar, and executes them there.
func execute(t testing.TB, text string, v tokenfile.Values) (string, error) {
	t.Helper()
	steps, err := Template(text, v.Audiences)
	if err != nil {
		return "", err
	}
	encoded, err := json.Marshal(steps)
	if err != nil {
		t.Fatal(err)
	}
	var decoded []api.Step
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	if err := tokenfile.Check(decoded, v.Audiences); err != nil {
		t.Errorf("%q: the sidecar refuses what the webhook took: %v", text, err)
	}
	got, err := tokenfile.Execute(decoded, v)
	if err != nil {
		t.Errorf("%q was taken and fails: %v", text, err)
	}
	return got, nil
}

func TestTemplates(t *testing.T) {
	v := values(claims)
	for text, want := range map[string]string{
		"plain": "plain", "{{.token}}": v.Token, "a{{/* comment */}}b": "ab", "a {{- .pod.name -}} b": "acart-1b",
		"{{.expiry}} {{rfc3339 .expiry}} {{unix .expiry}}":                            "2026-09-21T15:13:20Z 2026-09-21T15:13:20Z 1790003600",
		"{{.claims.exp}} {{rfc3339 .claims.exp}} {{.claims.exp | unix}}":              "1790003600 2026-09-21T15:13:20Z 1790003600",
		"{{join .audiences \",\"}} {{.audiences | len}} {{index .audiences 1}}":       "vault,https://b.example.com 2 https://b.example.com",
		"{{json .audiences}} {{.claims.aud | json}} {{.audiences}}":                   `["vault","https://b.example.com"] ["vault","https://b.example.com"] ["vault","https://b.example.com"]`,
		"{{quote .pod.name}} {{json .pod}}":                                           `"cart-1" {"name":"cart-1","namespace":"shop","serviceAccount":"cart","uid":"u-p"}`,
		"{{base64 .cluster.ca}} {{.cluster.server}}":                                  "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg== https://10.0.0.1:443",
		"{{urlquery (index .audiences 1)}}":                                           "https%3A%2F%2Fb.example.com",
		"{{index .claims \"kubernetes.io\" \"pod\" \"name\"}}":                        "cart-1",
		"{{(index .claims \"kubernetes.io\").serviceaccount.name}}":                   "cart",
		"{{with index .claims \"kubernetes.io\"}}{{.node.name}}{{else}}-{{end}}":      "n-1",
		"{{range .audiences}}[{{.}}]{{else}}-{{end}}":                                 "[vault][https://b.example.com]",
		"{{range $i, $a := .audiences}}{{$i}}={{$a}};{{end}}":                         "0=vault;1=https://b.example.com;",
		"{{range $a := .audiences}}{{$a}} {{$.pod.name}};{{end}}":                     "vault cart-1;https://b.example.com cart-1;",
		"{{range $k, $v := .pod}}{{$k}}={{$v}} {{end}}":                               "name=cart-1 namespace=shop serviceAccount=cart uid=u-p ",
		"{{if eq .pod.namespace \"shop\"}}yes{{else}}no{{end}}":                       "yes",
		"{{if ne .pod.namespace \"shop\"}}yes{{else if .token}}token{{else}}x{{end}}": "token",
		"{{if and .token (not .claims.jti)}}a{{else}}b{{end}}":                        "b",
		"{{if or (not .token) (eq (len .audiences) 2)}}a{{else}}b{{end}}":             "a",
		"{{$x := \"\"}}{{range .audiences}}{{$x = .}}{{end}}{{$x}}":                   "https://b.example.com",
		"{{if $x := .pod.name}}{{$x}}{{end}}{{with $y := .pod}}{{$y.uid}}{{end}}":     "cart-1u-p",
		"{{$x := 1}}{{if .token}}{{$x := 2}}{{$x}}{{end}}{{$x}}":                      "21",
		"{{.claims.jti | default \"none\" | quote}}":                                  `"j-1"`,
		"{{true}} {{\"a\\tb\"}} {{`raw`}} {{12}} {{-3}} {{'a'}} {{0x10}}":             "true a\tb raw 12 -3 97 16",
		"{{ .pod.name | json | base64 }}":                                             "ImNhcnQtMSI=",
		"{{(.pod).name}}{{$.pod.name}}":                                               "cart-1cart-1",
		"{{json \"<&>\"}}":                                                            `"<&>"`,
	} {
		got, err := execute(t, text, v)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// What another token lacks is empty, and nothing fails for it: an old API server names no node, and only tokens that it
// extended have warnafter.
func TestTemplatesAreLenientWithOtherTokens(t *testing.T) {
	v := values(`{"aud":"vault","exp":1790003600,"iat":1790000000.5,"kubernetes.io":{}}`)
	for text, want := range map[string]string{
		"[{{.claims.jti}}]{{.claims.iat}}":                                                   "[]1790000000",
		"{{range .claims.aud}}{{.}}{{end}}":                                                  "vault",
		"{{with index .claims \"kubernetes.io\"}}{{.pod.name}}{{else}}-{{end}}":              "-",
		"{{(index .claims \"kubernetes.io\").pod.name | default \"nobody\"}}":                "nobody",
		"{{with (index .claims \"kubernetes.io\").warnafter}}{{rfc3339 .}}{{end}}":           "",
		"{{unix (index .claims \"kubernetes.io\" \"warnafter\")}}{{len .claims.iss}}":        "0",
		"{{range $k, $v := (index .claims \"kubernetes.io\").pod}}{{$k}}{{else}}none{{end}}": "none",
		"{{eq .claims.jti \"x\"}} {{ne .claims.jti .claims.sub}} {{json .claims.sub}}":       "false false null",
		"{{$x := \"a\"}}{{$x = .claims.sub}}[{{$x}}]{{quote .claims.sub}}":                   `[]""`,
	} {
		got, err := execute(t, text, v)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestRefusedTemplates(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "it writes nothing",
		"{{/* only */}}":                    "it writes nothing",
		"{{if false}}{{end}}":               "it writes nothing",
		"{{.token":                          "line 1: unclosed action",
		"a\nb\n{{end}}":                     "line 3: unexpected {{end}}",
		"{{if .token}}":                     "unexpected EOF",
		"{{printf \"%s\" .token}}":          `function "printf" not defined; there are and, base64, default, `,
		"{{.token.String}}":                 `line 1:9: "{{.token.String}}": there is nothing named "String" in a text`,
		"{{.Token}}":                        `there is no "Token": there are audiences, claims, cluster, expiry, pod, token`,
		"{{.claims.email}}":                 `there is no "email": there are aud, exp, iat, iss, jti, kubernetes.io, nbf, sub`,
		"x{{if .nothing}}{{end}}":           `there is no "nothing"`,
		"x{{if false}}{{.x}}{{end}}":        `there is no "x"`,
		"x{{if true}}{{else}}{{.x}}{{end}}": `there is no "x"`,
		"x{{range .audiences}}{{else}}{{.x}}{{end}}": `there is no "x"`,
		"x{{and false (eq .token 1)}}":               `line 1:15: "{{and false (eq .token 1)}}": eq compares a text with a number`,
		"{{define \"a\"}}{{end}}x":                   "it defines other templates",
		"x{{template \"file\" .}}":                   "only values, variables, if, with, range, else and end are allowed",
		"x{{block \"a\" .}}{{end}}":                  "it defines other templates",
		"{{range .audiences}}x{{break}}{{end}}":      "only values, variables",
		"{{range .audiences}}x{{continue}}{{end}}":   "only values, variables",
		"{{range .token}}x{{end}}":                   "range over a text: use a list or a map",
		"{{range 5}}x{{end}}":                        "range over a number",
		"{{1.5}}":                                    "only whole numbers up to 2^53",
		"{{9007199254740993}}":                       "only whole numbers up to 2^53",
		"{{nil}}":                                    "this is not allowed here",
		"{{eq .token nil}}":                          "this is not allowed here",
		"{{.token 1}}":                               "only functions take arguments",
		"{{.token | .pod}}":                          "only functions take arguments",
		"{{join .token \",\"}}":                      "join needs a list and a text",
		"{{join .audiences}}":                        "join has 1 arguments: it takes 2",
		"{{and}}":                                    "and has 0 arguments: it takes 1 or more",
		"{{index .audiences 2}}":                     "index looks for element 2 of a list of 2",
		"{{index .audiences \"a\"}}":                 "index looks for a text in a list: use a number",
		"{{index .pod 1}}":                           "index looks for a number in a map: use a text",
		"{{index .pod \"node\"}}":                    `there is no "node"`,
		"{{index .token 1}}":                         "index looks into a text",
		"{{len 1}}":                                  "len counts a number",
		"{{unix .token}}":                            `unix needs a time, as .expiry, or seconds`,
		"{{eq .audiences .audiences}}":               "eq compares a list",
		"{{default 1 .token}}":                       "default has a number in place of a text",
		"{{$x}}":                                     "undefined variable",
		"x{{$x := 1}}{{$x = .token}}":                "the variable holds a number and would get a text",
		"x{{$ = 1}}":                                 "this variable cannot be changed",
		"{{with $x := 1}}{{end}}{{$x}}":              "undefined variable",
		"{{\"a\".b}}":                                "unexpected",
		"{{(\"a\").b}}":                              "a literal has no members",
		strings.Repeat("x", 8193):                    "it has 8193 bytes, and at most 8192 are allowed",
		strings.Repeat("{{.cluster.ca}}", 4):         "the file would be longer than 49152 bytes",
		strings.Repeat("{{range $.audiences}}", 13) + "{{len .}}" + strings.Repeat("{{end}}", 13):                       "too many steps",
		strings.Repeat("{{range $.audiences}}", 5) + "{{$x := json $.cluster.ca}}" + strings.Repeat("{{end}}", 5) + "x": "make too much text",
	} {
		steps, err := Template(text, []string{"vault", "https://b.example.com"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %v, %v, want %q", text, steps, err, want)
		}
	}
}

// TestLanguageIsThatOfTextTemplate compares with the real thing, where both have the same values and functions.
func TestLanguageIsThatOfTextTemplate(t *testing.T) {
	v := values(claims)
	dot := map[string]any{
		"token": v.Token, "audiences": []any{"vault", "https://b.example.com"}, "number": 1,
		"pod": map[string]any{"name": "cart-1", "namespace": "shop", "uid": "u-p", "serviceAccount": "cart"},
	}
	functions := template.FuncMap{"join": func(list []any, by string) string {
		var all []string
		for _, one := range list {
			all = append(all, one.(string))
		}
		return strings.Join(all, by)
	}}
	for _, text := range []string{
		"a\n{{- range $i, $a := .audiences}}\n  {{$i}}: {{$a -}}\n{{end}}\n",
		"{{with .pod}}{{.name}}{{with .uid}}{{.}}{{$.pod.name}}{{end}}{{end}}",
		"{{$x := .pod.name}}{{if .token}}{{$x = \"b\"}}{{$y := $x}}{{$y}}{{end}}{{$x}}",
		"{{if eq .pod.name \"x\"}}1{{else if eq .pod.name \"cart-1\"}}2{{else}}3{{end}}",
		"{{range .audiences}}{{if eq . \"vault\"}}{{.}}{{else}}-{{end}}{{end}}{{index .audiences 0 | len}}",
		"{{join .audiences \"+\" | len}}{{(index .pod \"name\") | urlquery}}{{not .token}}",
		"{{range $k, $v := .pod}}{{$k}}{{$v}}{{range $.audiences}}{{$k}}{{end}}{{end}}",
		"{{with $n := len .audiences}}{{$n}}{{end}}{{with eq 1 2}}x{{else with .pod.uid}}{{.}}{{end}}",
	} {
		reference, err := template.New("").Funcs(functions).Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		if err := reference.Execute(&want, dot); err != nil {
			t.Fatal(err)
		}
		got, err := execute(t, text, v)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want.String(), got); diff != "" {
			t.Errorf("%q (-text/template +ours):\n%s", text, diff)
		}
	}
}

// FuzzTemplate: no text makes the compiler panic, and what is taken can be executed for any token, always with the same
// result, also by the sidecar, which gets it as JSON.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		"{{.token}}", "{{range $i, $a := .audiences}}{{$i}}{{json $a}}{{else}}{{.}}{{end}}", "{{with index .claims \"kubernetes.io\"}}{{.pod.name}}{{end}}x",
		"{{$x := 1}}{{if eq $x 1}}{{$x = 2}}{{else}}{{$x = unix .expiry}}{{end}}{{$x}}", "{{(index .claims \"kubernetes.io\").warnafter | rfc3339 | default \"never\"}}",
		"{{base64 .cluster.ca}}{{urlquery .pod}}{{quote .expiry}}{{len .claims}}{{not (or .token (and .pod .claims))}}", "{{join .claims.aud \",\"}}{{ne .claims.iss .claims.sub}}",
		"{{define \"a\"}}{{end}}", "{{range .pod}}{{.}}{{break}}{{end}}", "{{- /* a */ -}} {{'a'}} {{`b`}} {{1e3}} {{\"\\u0000\"}}", "{{.a.b.c}}{{$.token}}{{$}}{{.}}",
	} {
		f.Add(seed, uint64(1))
	}
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		v := values(randomClaims(random))
		got, err := execute(t, text, v)
		if err != nil {
			return
		}
		if again, _ := execute(t, text, v); again != got {
			t.Errorf("%q: %q, then %q", text, got, again)
		}
		if len(got) > 64<<10 {
			t.Errorf("%q: %d bytes", text, len(got))
		}
	})
}

// randomClaims lacks some of the claims.
func randomClaims(random *rand.Rand) string {
	var all map[string]any
	if err := json.Unmarshal([]byte(claims), &all); err != nil {
		panic(err)
	}
	var thin func(m map[string]any)
	thin = func(m map[string]any) {
		for key, value := range m {
			if random.IntN(3) == 0 {
				delete(m, key)
			} else if inner, ok := value.(map[string]any); ok {
				thin(inner)
			}
		}
	}
	thin(all)
	if _, ok := all["aud"]; ok && random.IntN(2) == 0 {
		all["aud"] = "vault"
	}
	encoded, _ := json.Marshal(all)
	return string(encoded)
}
