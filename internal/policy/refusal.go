package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/podtoken/podtoken/pkg/api"
)

// Refusal tells why a pod's tokens are not allowed. As an error it must not be compared with nil after it went into a
// variable of type error.
type Refusal struct {
	// Reason is api.ReasonNotAllowed or api.ReasonLimitExceeded.
	Reason api.Reason
	// Message is for the pod's author and the administrator. It quotes what the pod asks for and has no line breaks.
	Message string
}

// Error returns the message.
func (r *Refusal) Error() string { return r.Message }

// Bounds of a message: nothing has validated names and audiences.
const (
	maxListed      = 10
	maxQuotedBytes = 100
)

// refuse makes a Refusal out of the problems, of which there is at least one.
func (r Request) refuse(reason api.Reason, problems []string) *Refusal {
	var text strings.Builder
	fmt.Fprintf(&text, "ServiceAccount %s in namespace %s: ", quote(r.ServiceAccount), quote(r.Namespace))
	if len(problems) == 1 {
		text.WriteString(problems[0])
		return &Refusal{Reason: reason, Message: text.String()}
	}
	fmt.Fprintf(&text, "%d problems: ", len(problems))
	for i, problem := range problems[:min(len(problems), maxListed)] {
		if i > 0 {
			text.WriteString("; ")
		}
		fmt.Fprintf(&text, "(%d) %s", i+1, problem)
	}
	if more := len(problems) - maxListed; more > 0 {
		fmt.Fprintf(&text, "; and %d more", more)
	}
	return &Refusal{Reason: reason, Message: text.String()}
}

// explain writes which audiences are refused, what the matching rules allow instead, and what an administrator can do.
func explain(found []refused, matching []*rule, apiKnown bool) string {
	var text strings.Builder
	noun, verb := "audience", "is"
	if len(found) > 1 {
		noun, verb = "audiences", "are"
	}
	anyAPI := false
	names := make([]string, 0, min(len(found), maxListed))
	for _, f := range found {
		anyAPI = anyAPI || f.api
		if len(names) == maxListed {
			continue
		}
		name := quote(f.audience) + " (token " + quote(f.token)
		if f.api && apiKnown {
			name += ", the API server's own"
		}
		names = append(names, name+")")
	}
	fmt.Fprintf(&text, "the %s %s %s not allowed: ", noun, listed(names, len(found)), verb)

	if len(matching) == 0 {
		text.WriteString("no rule of the policy matches this ServiceAccount; an administrator can add one")
	} else {
		fmt.Fprintf(&text, "the policy has %s for it; an administrator can add the %s", describe(matching), noun)
	}
	text.WriteString(" (policy.allow in the Helm chart's values)")
	switch {
	case !apiKnown:
		text.WriteString("; which audiences are the API server's is not known yet, so only those that a rule names without '*' are allowed")
	case anyAPI:
		text.WriteString("; one of the API server is allowed only by a rule that names it without '*'")
	}
	return text.String()
}

// describe lists rules and the audiences that they allow, at most maxListed of both over all.
func describe(rules []*rule) string {
	room := maxListed
	texts := make([]string, 0, min(len(rules), maxListed))
	for _, rule := range rules[:min(len(rules), maxListed)] {
		patterns := make([]string, 0, min(len(rule.audiences), room))
		for _, pattern := range rule.audiences[:min(len(rule.audiences), room)] {
			patterns = append(patterns, quote(pattern.text))
		}
		room -= len(patterns)
		texts = append(texts, rule.label+" ("+listed(patterns, len(rule.audiences))+")")
	}
	return listed(texts, len(rules))
}

// listed joins texts and tells how many of all are not among them.
func listed(texts []string, all int) string {
	text := strings.Join(texts, ", ")
	switch more := all - len(texts); {
	case more > 0 && len(texts) > 0:
		return text + " and " + strconv.Itoa(more) + " more"
	case more > 0:
		return strconv.Itoa(more) + " audiences"
	}
	return text
}

// quote is %q of a text that is cut to a length that a message can bear.
func quote(s string) string {
	if len(s) <= maxQuotedBytes {
		return strconv.Quote(s)
	}
	end := maxQuotedBytes
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return strconv.Quote(s[:end]) + "..."
}

// shortDuration writes seconds as "10m", "24h", "1h30m".
func shortDuration(seconds int64) string {
	text := (time.Duration(seconds) * time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
