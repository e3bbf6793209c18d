package attack

import (
	"fmt"
	"strings"
)

// Fate of a declaration.
type Fate string

const (
	// Refused: an event tells the pod's author, and there is no grant.
	Refused Fate = "refused"
	// Ignored: the pod does not count.
	Ignored Fate = "ignored"
	// Granted: exactly these audiences, letter by letter.
	Granted Fate = "granted"
)

// Declaration is a row of the table of pods that are made by hand, without the webhook: an init container "podtoken" with arguments of
// the author's choice.
type Declaration struct {
	Name string
	// Args of the init container.
	Args []string
	// Label podtoken.dev/injected, "true" by default.
	Label string
	// Container is the init container's name, "podtoken" by default.
	Container string
	// Annotations of the pod.
	Annotations map[string]string
	// Open namespaces allow every audience; others "vault" only.
	Open bool

	Fate      Fate
	Audiences []string
}

const (
	audienceAllowed = "vault"
	// audienceWanted is what the author wants, and the policy does not allow.
	audienceWanted = "billing"
)

// Declarations are what is tried for an audience that the policy does not allow, or for more than was declared.
func Declarations(api string) []Declaration {
	token := func(audiences, seconds string) string {
		return `--token={"name":"mine","audiences":` + audiences + `,"expirationSeconds":` + seconds + `,"path":"mine","mode":"0400","refreshAtPercent":80}`
	}
	of := func(audiences ...string) string { return text(audiences) }
	allowed := token(of(audienceAllowed), "3600")
	refused := func(name string, args ...string) Declaration {
		return Declaration{Name: name, Args: args, Fate: Refused}
	}
	granted := func(name string, audiences []string, args ...string) Declaration {
		return Declaration{Name: name, Args: args, Fate: Granted, Audiences: audiences}
	}
	ignored := func(name, label, container string) Declaration {
		return Declaration{Name: name, Args: []string{allowed}, Label: label, Container: container, Fate: Ignored}
	}
	rows := []Declaration{
		granted("what is allowed", []string{audienceAllowed}, allowed),
		refused("what is not allowed", token(of(audienceWanted), "3600")),
		refused("audiences twice, the last not allowed", `--token={"name":"mine","audiences":["vault"],"audiences":["billing"],"expirationSeconds":3600,"path":"mine","mode":"0400","refreshAtPercent":80}`),
		refused("audiences in another case", `--token={"name":"mine","AUDIENCES":["billing"],"expirationSeconds":3600,"path":"mine","mode":"0400","refreshAtPercent":80}`),
		refused("audiences in two cases", `--token={"name":"mine","audiences":["vault"],"Audiences":["billing"],"expirationSeconds":3600,"path":"mine","mode":"0400","refreshAtPercent":80}`),
		refused("audiences in two cases, the first not allowed", `--token={"name":"mine","AUDIENCES":["billing"],"audiences":["vault"],"expirationSeconds":3600,"path":"mine","mode":"0400","refreshAtPercent":80}`),
		refused("an audience in escapes", token(`["b\u0069lling"]`, "3600")),
		granted("an allowed audience in escapes", []string{audienceAllowed}, token(`["v\u0061ult"]`, "3600")),
		refused("a second token", allowed, strings.Replace(token(of(audienceWanted), "3600"), `"mine"`, `"more"`, 1)),
		refused("a token in two arguments", "--token", strings.TrimPrefix(token(of(audienceWanted), "3600"), "--token=")),
		refused("a token with one dash", strings.TrimPrefix(token(of(audienceWanted), "3600"), "-")),
		refused("two documents", allowed+strings.TrimPrefix(token(of(audienceWanted), "3600"), "--token=")),
		refused("an array", "--token=["+strings.TrimPrefix(allowed, "--token=")+"]"),
		refused("no audiences at all", token("null", "3600")),
		refused("an empty list of audiences", token("[]", "3600")),
		refused("an empty audience", token(of(""), "3600")),
		refused("nine audiences", token(of(repeated(audienceAllowed, 9)...), "3600")),
		refused("a blank at the end", token(of(audienceAllowed+" "), "3600")),
		refused("a character of no width at the end", token(of(audienceAllowed+"\u200b"), "3600")),
		refused("an audience of the API server", token(of(api), "3600")),
		refused("the lifetime that becomes a year", token(of(audienceAllowed), "3607")),
		refused("a lifetime of 136 years", token(of(audienceAllowed), fmt.Sprint(forEver))),
		refused("a lifetime that is no number of 64 bits", token(of(audienceAllowed), "9223372036854775808")),
		refused("a lifetime that is too short", token(of(audienceAllowed), "599")),
		refused("a negative lifetime", token(of(audienceAllowed), "-3600")),
		refused("a lifetime with a point", token(of(audienceAllowed), "3600.0")),
		refused("a lifetime with an exponent", token(of(audienceAllowed), "36e2")),
		refused("no lifetime", token(of(audienceAllowed), "null")),
		ignored("a label in another case", "True", ""),
		ignored("a label that is empty", "-", ""),
		ignored("a container of another name", "", "podtoken2"),
		{Name: "switched off, and declared all the same", Args: []string{token(of(api), "3600")}, Annotations: map[string]string{"podtoken.dev/inject": "false"}, Fate: Refused},
		// A Role names what it allows letter by letter: "*" is a name like others.
		{Name: "an audience that stands for all", Args: []string{token(of("*"), "3600")}, Open: true, Fate: Granted, Audiences: []string{"*"}},
		{Name: "an audience out of the environment", Args: []string{token(of("$(AUD)"), "3600")}, Open: true, Fate: Granted, Audiences: []string{"$(AUD)"}},
	}
	return rows
}
