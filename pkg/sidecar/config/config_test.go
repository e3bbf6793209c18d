package config

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/api"
)

const goodToken = `{"name":"vault","audiences":["vault","https://kubernetes.default.svc"],"expirationSeconds":3600,"path":"vault","mode":"0400","refreshAtPercent":80}`

func TestParseToken(t *testing.T) {
	set := func(field string, value any) string {
		var m map[string]any
		if err := json.Unmarshal([]byte(goodToken), &m); err != nil {
			t.Fatal(err)
		}
		m[field] = value
		encoded, _ := json.Marshal(m)
		return string(encoded)
	}
	files := func(path, text string) any {
		return []any{map[string]any{"path": path, "steps": []any{map[string]any{"text": text}}}}
	}
	good := api.TokenSpec{
		Name: "vault", Audiences: []string{"vault", "https://kubernetes.default.svc"}, ExpirationSeconds: 3600,
		Path: "vault", Mode: "0400", RefreshAtPercent: 80,
	}
	with := func(change func(*api.TokenSpec)) api.TokenSpec {
		spec := good
		change(&spec)
		return spec
	}
	for name, c := range map[string]struct {
		value string
		want  api.TokenSpec
		err   string // part of the message
	}{
		"what the webhook writes":                    {value: goodToken, want: good},
		"a dollar is escaped for the kubelet":        {value: strings.Replace(goodToken, `["vault",`, `["a\u0024(B)",`, 1), want: with(func(s *api.TokenSpec) { s.Audiences = []string{"a$(B)", good.Audiences[1]} })},
		"a path with folders":                        {value: set("path", "a/b/c.jwt"), want: with(func(s *api.TokenSpec) { s.Path = "a/b/c.jwt" })},
		"no JSON":                                    {value: "vault", err: `decoding "vault"`},
		"nothing":                                    {value: "", err: "EOF"},
		"two objects":                                {value: goodToken + goodToken, err: "only one JSON object"},
		"a field of a newer webhook":                 {value: set("bundle", true), err: `unknown field "bundle"; use the sidecar image of the webhook's own version`},
		"a field of another type":                    {value: set("expirationSeconds", "1h"), err: "cannot unmarshal string"},
		"no fields":                                  {value: "{}", err: "the name must be lower case letters"},
		"a name in upper case":                       {value: set("name", "Vault"), err: `token "Vault": the name must be`},
		"a name with a dash at its end":              {value: set("name", "vault-"), err: "the name must be"},
		"a name that is too long":                    {value: set("name", strings.Repeat("a", 41)), err: "at most 40"},
		"no audience":                                {value: set("audiences", []string{}), err: "it has 0 audiences, want 1 to 8"},
		"an audience that is empty":                  {value: set("audiences", []string{""}), err: `audience "" must not be empty`},
		"an audience with a newline":                 {value: set("audiences", []string{"a\nb"}), err: "control characters"},
		"an audience twice":                          {value: set("audiences", []string{"a", "b", "a"}), err: `audience "a" is given twice`},
		"nine audiences":                             {value: set("audiences", strings.Split("abcdefghi", "")), err: "it has 9 audiences"},
		"a lifetime below what the API server gives": {value: set("expirationSeconds", 599), err: "expirationSeconds 599: want 600 to 4294967296"},
		"a lifetime above what the API server gives": {value: set("expirationSeconds", 4294967297), err: "want 600 to 4294967296"},
		"the lifetime that is extended to a year":    {value: set("expirationSeconds", 3607), err: "extended to a year"},
		"a path that leads out":                      {value: set("path", "../vault"), err: `path "../vault"`},
		"a path that leads out in the middle":        {value: set("path", "a/../../vault"), err: "want a relative path"},
		"an absolute path":                           {value: set("path", "/vault"), err: "want a relative path"},
		"a path that is a folder":                    {value: set("path", "vault/"), err: "want a relative path"},
		"a path that is the directory":               {value: set("path", "."), err: "want a relative path"},
		"no path":                                    {value: set("path", ""), err: "want a relative path"},
		"a reserved path":                            {value: set("path", "a/.podtoken-status.json"), err: `segments that begin with ".podtoken"`},
		"a path with a NUL":                          {value: set("path", "a\x00b"), err: "want a relative path"},
		"a segment that no file system takes":        {value: set("path", strings.Repeat("a", 256)), err: "want a relative path"},
		"a mode of three digits":                     {value: set("mode", "400"), err: `mode "400": want four octal digits`},
		"a mode in decimal":                          {value: set("mode", "0980"), err: "want four octal digits"},
		"a mode with setuid":                         {value: set("mode", "4400"), err: "want four octal digits"},
		"a mode that the owner cannot read":          {value: set("mode", "0044"), err: "readable by the owner"},
		"a mode that others can write":               {value: set("mode", "0606"), err: "not writable by group or others"},
		"a refresh below 20 percent":                 {value: set("refreshAtPercent", 19), err: "refreshAtPercent 19: want 20 to 90"},
		"a refresh above 90 percent":                 {value: set("refreshAtPercent", 91), err: "want 20 to 90"},
		"another file": {value: set("files", files("vault.json", "x")), want: with(func(s *api.TokenSpec) {
			s.Files = []api.FileSpec{{Path: "vault.json", Steps: []api.Step{{Text: "x"}}}}
		})},
		"a hidden path": {value: strings.Replace(set("files", files("vault", "x")), `"path":"vault","refresh`, `"path":".podtoken-token-vault","refresh`, 1), want: with(func(s *api.TokenSpec) {
			s.Path, s.Files = ".podtoken-token-vault", []api.FileSpec{{Path: "vault", Steps: []api.Step{{Text: "x"}}}}
		})},
		"a hidden path without another file":         {value: set("path", ".podtoken-token-vault"), err: `segments that begin with ".podtoken"`},
		"a hidden path of another token":             {value: strings.Replace(set("files", files("vault", "x")), `"path":"vault","refresh`, `"path":".podtoken-token-b","refresh`, 1), err: `segments that begin with ".podtoken"`},
		"a file that leads out":                      {value: set("files", files("../x", "x")), err: `path "../x" of a file`},
		"a reserved file":                            {value: set("files", files(".podtoken-token-vault", "x")), err: `path ".podtoken-token-vault" of a file`},
		"a file in the place of the token":           {value: set("files", files("vault", "x")), err: `it cannot have files of the paths "vault" and "vault"`},
		"a file below the token":                     {value: set("files", files("vault/x", "x")), err: `it cannot have files of the paths "vault" and "vault/x"`},
		"a file without text":                        {value: set("files", files("x", "")), err: `steps of the file "x": it writes nothing`},
		"a file with an unknown value":               {value: set("files", []any{map[string]any{"path": "x", "steps": []any{map[string]any{"value": map[string]any{"get": ".x"}}}}}), err: `there is no "x"`},
		"a file with an unknown function":            {value: set("files", []any{map[string]any{"path": "x", "steps": []any{map[string]any{"value": map[string]any{"call": "env"}}}}}), err: `there is no function "env"`},
		"a file with an unknown step":                {value: set("files", []any{map[string]any{"path": "x", "steps": []any{map[string]any{"do": "exec", "value": map[string]any{"get": "."}}}}}), err: `nobody knows how to do "exec"`},
		"a name in another case":                     {value: strings.Replace(goodToken, `"audiences"`, `"Audiences"`, 1), err: `the token has "Audiences", which must be spelled "audiences"; use the sidecar image`},
		"a name twice":                               {value: strings.Replace(goodToken, `{`, `{"audiences":["other"],`, 1), err: `"audiences" is there twice`},
		"a name in two cases":                        {value: strings.Replace(goodToken, `}`, `,"AUDIENCES":["other"]}`, 1), err: `the token has "AUDIENCES", which must be spelled "audiences"`},
		"an empty list of files":                     {value: set("files", []string{}), err: `the token has "files": [], which must be left out`},
		"files that are null":                        {value: set("files", nil), err: `the token has "files": null, which must be left out`},
		"an empty else":                              {value: strings.Replace(rich, `"else":[{"value":{"literal":false}}]`, `"else":[]`, 1), err: `the token.files.0.steps.4 has "else": [], which must be left out`},
		"a number that is not whole":                 {value: strings.Replace(rich, `"literal":-3`, `"literal":-3.5`, 1), err: "a whole number up to 2^53"},
		"a number that is spelled else":              {value: strings.Replace(rich, `"literal":-3`, `"literal":-3.0`, 1), err: "the token.files.0.steps.4.value.args.1.literal is -3.0, want -3"},
		"a number that is rounded":                   {value: strings.Replace(rich, `9007199254740992`, `9007199254740993`, 1), err: "is 9007199254740993, want 9007199254740992"},
		"a literal that is a list":                   {value: strings.Replace(rich, `"literal":false`, `"literal":[]`, 1), err: "a literal (a text, a truth value"},
		"what is not UTF-8":                          {value: strings.Replace(goodToken, `"vault",`, "\"va\xffult\",", 1), err: "it is not UTF-8"},
		"half of a surrogate pair":                   {value: strings.Replace(goodToken, `["vault",`, `["va\ud800ult",`, 1), err: "half of a surrogate pair is not a character"},
		"a bracket behind the object":                {value: goodToken + "]", err: "only one JSON object"},
		"text behind the object":                     {value: goodToken + " x", err: "only one JSON object"},
		"null":                                       {value: "null", err: "the name must be lower case letters"},
		"a refresh that is missing is not filled in": {value: strings.Replace(goodToken, `,"refreshAtPercent":80`, "", 1), err: "refreshAtPercent 0"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseToken(c.value)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseSignal(t *testing.T) {
	for name, c := range map[string]struct {
		value string
		want  Signal
		bad   bool
	}{
		"a process":              {value: "SIGHUP:nginx", want: Signal{"SIGHUP", "nginx"}},
		"a process with a colon": {value: "SIGUSR1:a:b", want: Signal{"SIGUSR1", "a:b"}},
		"no process":             {value: "SIGHUP:", bad: true},
		"no colon":               {value: "SIGHUP", bad: true},
		"a signal that kills":    {value: "SIGKILL:nginx", bad: true},
		"a number":               {value: "1:nginx", bad: true},
		"the longest name":       {value: "SIGTERM:123456789012345", want: Signal{"SIGTERM", "123456789012345"}},
		"a name that is cut off": {value: "SIGTERM:1234567890123456", bad: true},
		"a newline":              {value: "SIGHUP:ngi\nnx", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseSignal(c.value)
			if got != c.want || (err != nil) != c.bad {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	good := func() Config {
		spec, err := ParseToken(goodToken)
		if err != nil {
			t.Fatal(err)
		}
		return Config{Pod: Pod{Namespace: "shop", Name: "cart-1", UID: "u-p", ServiceAccount: "cart"}, Tokens: []api.TokenSpec{spec}, Dir: "/x"}
	}
	second := func(name, path string) func(*Config) {
		return func(c *Config) {
			spec := c.Tokens[0]
			spec.Name, spec.Path = name, path
			c.Tokens = append(c.Tokens, spec)
		}
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string // parts, one for each line
	}{
		"good":         {func(*Config) {}, nil},
		"two tokens":   {second("billing", "vault2"), nil},
		"a name twice": {second("vault", "x"), []string{`token "vault" is given twice`}},
		"a path twice": {second("billing", "vault"), []string{`paths "vault" and "vault"`}},
		"a file that is another token's": {func(c *Config) {
			second("billing", "billing")(c)
			c.Tokens[1].Files = []api.FileSpec{{Path: "vault", Steps: []api.Step{{Text: "x"}}}}
		}, []string{`tokens "vault" and "billing" cannot have the paths "vault" and "vault"`}},
		"a path below another token's":     {second("billing", "vault/a"), []string{`paths "vault" and "vault/a"`}},
		"no token":                         {func(c *Config) { c.Tokens = nil }, []string{"no token to keep: give at least one --token"}},
		"a token that was not checked":     {func(c *Config) { c.Tokens[0].Audiences = nil }, []string{"it has 0 audiences"}},
		"no identity":                      {func(c *Config) { c.Pod = Pod{} }, []string{"PODTOKEN_POD_NAMESPACE", "PODTOKEN_POD_NAME", "PODTOKEN_POD_UID", "PODTOKEN_SERVICE_ACCOUNT"}},
		"an identity that is a path":       {func(c *Config) { c.Pod.ServiceAccount = "a/b" }, []string{`PODTOKEN_SERVICE_ACCOUNT is "a/b"`}},
		"notify to localhost":              {func(c *Config) { c.Notify = "http://localhost:8080/reload" }, nil},
		"notify to IPv4 loopback":          {func(c *Config) { c.Notify = "http://127.0.0.2:8080/reload?x=y" }, nil},
		"notify to IPv6 loopback":          {func(c *Config) { c.Notify = "http://[::1]:8080" }, nil},
		"notify with a zone":               {func(c *Config) { c.Notify = "http://[::1%25eth0]:80/" }, []string{`notify URL "http://[::1%25eth0]:80/"`}},
		"notify to another host":           {func(c *Config) { c.Notify = "http://example.com/" }, []string{`notify URL "http://example.com/"`}},
		"notify to a host with our prefix": {func(c *Config) { c.Notify = "http://localhost.example.com/" }, []string{"only the pod's own loopback"}},
		"notify over TLS":                  {func(c *Config) { c.Notify = "https://localhost/" }, []string{"want http://"}},
		"notify with a user":               {func(c *Config) { c.Notify = "http://a:b@localhost/" }, []string{"want http://"}},
		"notify that is no URL":            {func(c *Config) { c.Notify = "http://[" }, []string{"want http://"}},
		"a port":                           {func(c *Config) { c.MetricsPort = 9102 }, nil},
		"a port that is none":              {func(c *Config) { c.MetricsPort = 65536 }, []string{"metrics port 65536"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := good()
			c.change(&config)
			var lines []string
			if err := config.Validate(); err != nil {
				lines = strings.Split(err.Error(), "\n")
			}
			if !slices.EqualFunc(lines, c.want, strings.Contains) {
				t.Errorf("got %q, want %q", lines, c.want)
			}
		})
	}
}

// rich has every step and value that there is, as the webhook writes them.
const rich = `{"name":"a","audiences":["b","\u0024(C)<é"],"expirationSeconds":600,"path":".podtoken-token-a","mode":"0444","refreshAtPercent":20,"files":[{"path":"a/b","steps":[` +
	`{"text":"x"},{"value":{"get":"."}},{"do":"set","value":{"literal":""},"vars":["\u0024s"]},{"do":"assign","value":{"get":".token"},"vars":["\u0024s"]},` +
	`{"do":"if","value":{"call":"eq","args":[{"literal":9007199254740992},{"literal":-3}]},"then":[{"text":"y"}],"else":[{"value":{"literal":false}}]},` +
	`{"do":"with","value":{"get":"\u0024.pod"},"vars":["\u0024p"],"then":[{"value":{"get":"\u0024p.name"}}]},` +
	`{"do":"range","value":{"get":".audiences"},"vars":["\u0024i","\u0024a"],"then":[{"value":{"call":"json","args":[{"get":"\u0024a"}]}}]},` +
	`{"value":{"call":"index","args":[{"get":".claims"},{"literal":"kubernetes.io"}],"get":".pod.name"}}]}]}`

// What the webhook does not write is rejected wherever it is: a name in another case, a name twice, an unknown name, and what is
// left out when it is empty.
func TestParseTokenTakesOnlyWhatIsWritten(t *testing.T) {
	spec, err := ParseToken(rich)
	if err != nil {
		t.Fatal(err)
	}
	if written := FormatToken(spec); written != rich {
		t.Fatalf("written it is\n%s, want\n%s", written, rich)
	}
	names := []string{
		"name", "audiences", "expirationSeconds", "path", "mode", "refreshAtPercent", "files", "steps", "text", "do", "value", "vars", "then", "else",
		"call", "args", "literal", "get", "at", "At", "new",
	}
	tried, inText := 0, false
	for i := range rich {
		if rich[i] == '"' && rich[i-1] != '\\' {
			inText = !inText
		}
		if rich[i] != '{' || inText {
			continue
		}
		for _, name := range names {
			for _, spelled := range []string{name, strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]} {
				values := []string{"null", `[""]`}
				if spelled == name {
					values = append(values, `""`, "[]", "{}", "0", "false", "[null]")
				}
				for _, value := range values {
					members := []string{`"` + spelled + `":` + value + `,`}
					if value == "null" {
						members = append(members, fmt.Sprintf(`"%s\u00%02x%s":null,`, spelled[:1], spelled[1], spelled[2:]))
					}
					for _, member := range members {
						tried++
						changed := rich[:i+1] + member + rich[i+1:]
						if got, err := ParseToken(changed); err == nil {
							t.Errorf("%s in %.40s is taken: %+v", member, rich[i:], got)
						}
					}
				}
			}
		}
	}
	if tried < 4_000 {
		t.Errorf("%d arguments were tried", tried)
	}
}

// ParseDeclaration reads what another version writes beside, and of its own three members nothing that is ambiguous.
func TestParseDeclaration(t *testing.T) {
	good := api.TokenSpec{Name: "a", Audiences: []string{"x", "y"}, ExpirationSeconds: 600}
	for name, c := range map[string]struct{ value, err string }{
		"as it is written":                {value: `{"name":"a","audiences":["x","y"],"expirationSeconds":600,"path":"p","mode":"0400","refreshAtPercent":80}`},
		"another order, blanks, escapes":  {value: " {\"\\u0061udiences\" : [ \"x\",\"\\u0079\" ],\n\"expirationSeconds\":600,\"name\":\"a\"} "},
		"members of another version":      {value: `{"name":"a","audiences":["x","y"],"expirationSeconds":600,"new":[{"name":null}],"files":[]}`},
		"a name twice":                    {value: `{"name":"a","audiences":["x"],"audiences":["x"],"expirationSeconds":600}`, err: `"audiences" is there twice`},
		"a name twice, once escaped":      {value: `{"name":"a","audiences":["x"],"\u0061udiences":["x"],"expirationSeconds":600}`, err: `"audiences" is there twice`},
		"an unknown name twice":           {value: `{"name":"a","audiences":["x"],"expirationSeconds":600,"new":{},"new":{}}`, err: `"new" is there twice`},
		"a name in another case":          {value: `{"name":"a","AUDIENCES":["x"],"expirationSeconds":600}`, err: `it has "AUDIENCES", which must be spelled "audiences"`},
		"a letter that folds to an s":     {value: `{"name":"a","audience\u017f":["x"],"audiences":["x"],"expirationSeconds":600}`, err: `which must be spelled "audiences"`},
		"no name":                         {value: `{"audiences":["x"],"expirationSeconds":600}`, err: `it has no "name"`},
		"no audiences":                    {value: `{"name":"a","expirationSeconds":600}`, err: `it has no "audiences"`},
		"no lifetime":                     {value: `{"name":"a","audiences":["x"]}`, err: `it has no "expirationSeconds"`},
		"a name that is null":             {value: `{"name":null,"audiences":["x"],"expirationSeconds":600}`, err: `"name" is null, want a string`},
		"audiences that are null":         {value: `{"name":"a","audiences":null,"expirationSeconds":600}`, err: `"audiences" is null, want a list of strings`},
		"an audience that is null":        {value: `{"name":"a","audiences":["x",null],"expirationSeconds":600}`, err: `"audiences" is ["x",null], want a list of strings`},
		"a lifetime that is null":         {value: `{"name":"a","audiences":["x"],"expirationSeconds":null}`, err: `"expirationSeconds" is null, want a whole number of 64 bits`},
		"a lifetime that is a text":       {value: `{"name":"a","audiences":["x"],"expirationSeconds":"600"}`, err: `"expirationSeconds" is "600", want`},
		"a lifetime with an exponent":     {value: `{"name":"a","audiences":["x"],"expirationSeconds":6e2}`, err: `"expirationSeconds" is 6e2, want`},
		"a lifetime that is out of range": {value: `{"name":"a","audiences":["x"],"expirationSeconds":9223372036854775808}`, err: `want a whole number of 64 bits`},
		"a list":                          {value: `[{"name":"a","audiences":["x"],"expirationSeconds":600}]`, err: "it must be a JSON object"},
		"null":                            {value: `null`, err: "it must be a JSON object"},
		"two objects":                     {value: `{"name":"a","audiences":["x"],"expirationSeconds":600}{}`, err: "invalid character '{' after top-level value"},
		"what is not UTF-8":               {value: "{\"name\":\"\xff\",\"audiences\":[\"x\"],\"expirationSeconds\":600}", err: "it is not UTF-8"},
		"lists in lists":                  {value: `{"name":"a","audiences":["x"],"expirationSeconds":600,"new":` + strings.Repeat("[", 1<<16) + strings.Repeat("]", 1<<16) + `}`, err: "exceeded max depth"},
		"nothing":                         {value: ``, err: "unexpected end of JSON input"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseDeclaration(c.value)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if diff := cmp.Diff(good, got); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

// FuzzParseToken: whatever the argument, no panic; what is accepted is safe to write and to request, is what it would be if
// it were written again, and the controller understands the same.
func FuzzParseToken(f *testing.F) {
	f.Add(goodToken)
	f.Add(rich)
	f.Add(`{"name":"a","audiences":["\u0024(A)"],"expirationSeconds":600,"path":"a/b","mode":"0444","refreshAtPercent":20}`)
	f.Add(`{"name":"a"}{}`)
	f.Add(`{"name":"a","audiences":["b"],"expirationSeconds":600,"path":".podtoken-token-a","mode":"0444","refreshAtPercent":20,"files":[{"path":"a","steps":[` +
		`{"text":"x"},{"do":"range","vars":["$i","$a"],"value":{"get":".audiences"},"then":[{"value":{"call":"json","args":[{"get":"$a"},{"literal":1}],"get":".x"}}],"else":[]}]}]}`)
	f.Fuzz(func(t *testing.T, value string) {
		declaration, declarationErr := ParseDeclaration(value)
		if declarationErr == nil {
			members, _ := generic(t, value).(map[string]any)
			audiences := make([]any, len(declaration.Audiences))
			for i, audience := range declaration.Audiences {
				audiences[i] = audience
			}
			got := []any{declaration.Name, audiences, json.Number(fmt.Sprint(declaration.ExpirationSeconds))}
			if diff := cmp.Diff([]any{members["name"], members["audiences"], members["expirationSeconds"]}, got); diff != "" && members["expirationSeconds"] != json.Number("-0") {
				t.Errorf("read in another way (-generic +declaration):\n%s", diff)
			}
		}
		spec, err := ParseToken(value)
		if err != nil {
			return
		}
		if len(spec.Audiences) == 0 || strings.HasPrefix(spec.Path, "/") || slices.Contains(strings.Split(spec.Path, "/"), "..") {
			t.Errorf("accepted %+v", spec)
		}
		written := FormatToken(spec)
		if strings.Contains(written, "$") {
			t.Errorf("the kubelet would expand %s", written)
		}
		// By encoding/json alone, which this package takes as little as possible from.
		plainly, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(generic(t, value), generic(t, written)) + cmp.Diff(generic(t, value), generic(t, string(plainly))); diff != "" {
			t.Errorf("it is not what is written of it:\n%s", diff)
		}
		for _, text := range []string{written, string(plainly)} {
			again, err := ParseToken(text)
			if diff := cmp.Diff(spec, again); diff != "" || err != nil {
				t.Errorf("%s: %v\n%s", text, err, diff)
			}
		}
		if diff := cmp.Diff(api.TokenSpec{Name: spec.Name, Audiences: spec.Audiences, ExpirationSeconds: spec.ExpirationSeconds}, declaration); diff != "" || declarationErr != nil {
			t.Errorf("the controller understands something else: %v\n%s", declarationErr, diff)
		}
	})
}

func generic(t *testing.T, text string) (value any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}
