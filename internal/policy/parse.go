package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/pkg/api"
)

// Type and version of the policy file.
const (
	apiVersion = "podtoken.dev/v1alpha1"
	kind       = "PolicyConfiguration"
)

// Defaults and limits of the file's values. Those of tokens are the same as in the webhook's configuration.
const (
	defaultMaxExpiration = 24 * time.Hour
	defaultMaxPerPod     = 16
	maxPerPodLimit       = 256
	// A Role with the most audiences of a ServiceAccount has 64 KiB by default, and 256 KiB at most: etcd takes 1.5 MiB, a
	// request 3 MiB, in which a character has up to six bytes, and every API server keeps all Roles in memory.
	defaultMaxAccount   = 256
	maxAccountLimit     = 1024
	defaultMaxNamespace = 4096
	maxNamespaceLimit   = 16384
	maxAudienceBytes    = 512
	maxNamespaceBytes   = 63
	maxAccountBytes     = 253
	maxRuleNameBytes    = 63
)

// file is the policy as administrators write it.
type file struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Allow are alternatives: a token's audience is allowed by any rule whose three lists match.
	Allow []fileRule `json:"allow"`
	// RBACNamespaces are globs of namespaces in which Allow is not looked at: Roles decide.
	RBACNamespaces []string `json:"rbacNamespaces"`
	// ExcludeNamespaces are names of namespaces without any tokens.
	ExcludeNamespaces []string `json:"excludeNamespaces"`
	// MaxExpiration is the longest lifetime, a Go duration of whole seconds; 24h by default.
	MaxExpiration string `json:"maxExpiration"`
	// MaxPerPod is the largest number of tokens of one pod; 16 by default.
	MaxPerPod int `json:"maxPerPod"`
	// MaxAudiencesPerServiceAccount is the largest number of different audiences, and of different lifetimes, that all
	// pods of one ServiceAccount are granted together; 256 by default.
	MaxAudiencesPerServiceAccount int `json:"maxAudiencesPerServiceAccount"`
	// MaxAudiencesPerNamespace is the largest number of audiences of all ServiceAccounts in a namespace; 4096 by default.
	MaxAudiencesPerNamespace int `json:"maxAudiencesPerNamespace"`
}

type fileRule struct {
	// Name of the rule in messages; its place in the list by default.
	Name            string   `json:"name"`
	Namespaces      []string `json:"namespaces"`
	ServiceAccounts []string `json:"serviceAccounts"`
	Audiences       []string `json:"audiences"`
}

// Parse reads the policy file. Unknown and duplicate fields are errors, names of fields are case-sensitive; what is left
// out has the documented default. All that is wrong with the values is reported at once.
func Parse(data []byte) (*Policy, error) {
	// By way of plain JSON: sigs.k8s.io/yaml would take other spellings of a field's name, and numbers for texts.
	document, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fmt.Errorf("parsing policy: %s", strings.Join(strings.Fields(err.Error()), " ")) // it has line breaks
	}
	var f file
	strict, err := kjson.UnmarshalStrict(document, &f)
	if err != nil {
		return nil, fmt.Errorf("parsing policy: %w", err)
	}
	var problems problems
	for _, err := range strict {
		problems.add("%s", strings.Join(strings.Fields(err.Error()), " "))
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("parsing policy: %s", strings.Join(problems, "; "))
	}
	p := f.compile(&problems)
	if len(problems) > 0 {
		return nil, fmt.Errorf("checking policy: %s", strings.Join(problems, "; "))
	}
	return p, nil
}

// problems collects one text per problem: field, value, what is allowed.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// number returns a limit, which is the default when it is not given.
func (p *problems) number(field string, value, byDefault, most int) int {
	if value == 0 {
		return byDefault
	}
	if value < 1 || value > most {
		p.add("%s: %d is not allowed, use 1 to %d", field, value, most)
	}
	return value
}

func (f *file) compile(problems *problems) *Policy {
	if f.APIVersion != apiVersion {
		problems.add("apiVersion: %s is not known, use %q", quote(f.APIVersion), apiVersion)
	}
	if f.Kind != kind {
		problems.add("kind: %s is not known, use %q", quote(f.Kind), kind)
	}
	p := &Policy{excluded: make(map[string]bool, len(f.ExcludeNamespaces))}
	for i := range f.Allow {
		p.rules = append(p.rules, f.Allow[i].compile(i, problems))
	}
	problems.patterns("rbacNamespaces", f.RBACNamespaces, namespaceProblem)
	p.rbac = newGlobs(f.RBACNamespaces)
	for i, name := range f.ExcludeNamespaces {
		if text := namespaceProblem(name); text != "" {
			problems.add("excludeNamespaces[%d]: %s %s", i, quote(name), text)
		} else if strings.Contains(name, "*") {
			problems.add("excludeNamespaces[%d]: %s is a pattern: write the names of the namespaces", i, quote(name))
		}
		p.excluded[name] = true
	}
	p.maxSeconds = f.maxSeconds(problems)
	p.maxPerPod = problems.number("maxPerPod", f.MaxPerPod, defaultMaxPerPod, maxPerPodLimit)
	p.maxPerAccount = problems.number("maxAudiencesPerServiceAccount", f.MaxAudiencesPerServiceAccount, defaultMaxAccount, maxAccountLimit)
	p.maxPerNamespace = problems.number("maxAudiencesPerNamespace", f.MaxAudiencesPerNamespace, defaultMaxNamespace, maxNamespaceLimit)
	return p
}

func (f *file) maxSeconds(problems *problems) int64 {
	if f.MaxExpiration == "" {
		return int64(defaultMaxExpiration / time.Second)
	}
	d, err := time.ParseDuration(f.MaxExpiration)
	switch {
	case err != nil:
		problems.add(`maxExpiration: %s is not a duration: use one as "90m" or "24h"`, quote(f.MaxExpiration))
	case d == 0: // as in the webhook's configuration
		d = defaultMaxExpiration
	case d < api.MinExpirationSeconds*time.Second || d > api.MaxExpirationSeconds*time.Second || d%time.Second != 0:
		problems.add("maxExpiration: %s is not allowed, use whole seconds, %s to %s",
			quote(f.MaxExpiration), shortDuration(api.MinExpirationSeconds), shortDuration(api.MaxExpirationSeconds))
	}
	return int64(d / time.Second)
}

func (r *fileRule) compile(index int, problems *problems) rule {
	field := func(name string) string { return fmt.Sprintf("allow[%d].%s", index, name) }
	label := "rule " + strconv.Itoa(index+1)
	if r.Name != "" {
		label = "rule " + quote(r.Name)
	}
	if len(r.Name) > maxRuleNameBytes || !printable(r.Name) {
		problems.add("%s: %s is not allowed, use at most %d bytes without control characters", field("name"), quote(r.Name), maxRuleNameBytes)
	}
	for _, list := range []struct {
		name     string
		patterns []string
		problem  func(string) string
	}{
		{"namespaces", r.Namespaces, namespaceProblem},
		{"serviceAccounts", r.ServiceAccounts, accountProblem},
		{"audiences", r.Audiences, audienceProblem},
	} {
		if len(list.patterns) == 0 {
			problems.add(`%s: is missing or empty: list what the rule is for, ["*"] for all`, field(list.name))
		}
		problems.patterns(field(list.name), list.patterns, list.problem)
	}
	return rule{
		label:           label,
		namespaces:      newGlobs(r.Namespaces),
		serviceAccounts: newGlobs(r.ServiceAccounts),
		audiences:       newGlobs(r.Audiences),
	}
}

// patterns reports the patterns that can match nothing: each is a rule that does less than its author thinks.
func (p *problems) patterns(field string, patterns []string, problem func(string) string) {
	for i, pattern := range patterns {
		if text := problem(pattern); text != "" {
			p.add("%s[%d]: %s %s", field, i, quote(pattern), text)
		}
	}
}

// The functions below tell why a text cannot be a name or a pattern for names; empty when it can. Their texts continue
// `<field>: "<value>" `.

func namespaceProblem(pattern string) string {
	return nameProblem(pattern, maxNamespaceBytes, "-*", "is not the name of a namespace: use lower case letters, digits and '-'")
}

func accountProblem(pattern string) string {
	return nameProblem(pattern, maxAccountBytes, "-.*", "is not the name of a ServiceAccount: use lower case letters, digits, '-' and '.'")
}

func nameProblem(pattern string, maxBytes int, special, text string) string {
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune(special, r)
	}
	// Stars take no room in what they match.
	if pattern == "" || len(strings.ReplaceAll(pattern, "*", "")) > maxBytes || strings.ContainsFunc(pattern, bad) {
		return text + fmt.Sprintf(", at most %d of them", maxBytes)
	}
	return ""
}

// audienceProblem is the same rule as that for annotations: what an annotation cannot hold is never requested.
func audienceProblem(audience string) string {
	switch {
	case audience == "":
		return "is empty"
	case len(audience) > maxAudienceBytes:
		return fmt.Sprintf("has %d bytes: at most %d are allowed", len(audience), maxAudienceBytes)
	case strings.Contains(audience, " ") || !printable(audience):
		return "has blanks, control characters or invalid UTF-8: remove them"
	}
	return ""
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
