package mutate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

// arguments are those of a sidecar, decoded: what counts is what they mean, however they are written.
type arguments struct {
	tokens []api.TokenSpec
	// settings are the other flags, by name.
	settings map[string]string
}

// settingFlags are the flags besides that of tokens.
var settingFlags = []string{api.FlagNotify, api.FlagNotifySignal, api.FlagMetricsPort}

// flag returns the value of one of settingFlags, empty for none.
func (r *request) flag(name string) string {
	switch {
	case name == api.FlagNotify:
		return r.notify
	case name == api.FlagNotifySignal:
		return r.notifySignal
	case r.metricsPort != 0:
		return strconv.Itoa(int(r.metricsPort))
	}
	return ""
}

// readArguments decodes what newSidecar writes, exactly as it is written. It takes nothing else: other readers of the arguments, as the controller and the policies, could understand
// it in another way, and the kubelet would replace "$(NAME)".
func readArguments(args []string) (arguments, error) {
	a := arguments{settings: map[string]string{}}
	for _, arg := range args {
		flag, value, set := strings.Cut(arg, "=")
		name, isFlag := strings.CutPrefix(flag, "--")
		switch {
		case !set || !isFlag || strings.Contains(arg, "$"):
			return a, fmt.Errorf("%s is not one of podtoken's", quote(arg))
		case name == api.FlagToken:
			token, err := config.ParseToken(value)
			if err != nil {
				return a, fmt.Errorf("%s: %s", quote(arg), cutTo(err.Error(), 2*maxQuotedBytes))
			}
			if config.FormatToken(token) != value {
				return a, fmt.Errorf("%s is not written as podtoken writes it", quote(arg))
			}
			a.tokens = append(a.tokens, token)
		case !slices.Contains(settingFlags, name):
			return a, fmt.Errorf("%s is not one of podtoken's", quote(arg))
		default:
			if _, twice := a.settings[name]; twice {
				return a, fmt.Errorf("--%s is there twice", name)
			}
			a.settings[name] = value
		}
	}
	return a, a.validate()
}

// validate does what the sidecar would do, which would not start.
func (a arguments) validate() error {
	c := config.Config{Pod: config.Pod{Namespace: "a", Name: "a", UID: "a", ServiceAccount: "a"}, Tokens: a.tokens, Notify: a.settings[api.FlagNotify]}
	if value, set := a.settings[api.FlagNotifySignal]; set {
		if _, err := config.ParseSignal(value); err != nil {
			return fmt.Errorf("--%s: %w", api.FlagNotifySignal, err)
		}
	}
	if value, set := a.settings[api.FlagMetricsPort]; set {
		port, err := strconv.Atoi(value)
		if err != nil || strconv.Itoa(port) != value {
			return fmt.Errorf("--%s=%s is no port", api.FlagMetricsPort, quote(value))
		}
		c.MetricsPort = port
	}
	return c.Validate()
}

// judgeArguments compares what the sidecar was told with what this installation would tell it: its tokens must be those that the annotations name, with
// the same audiences, in the same files, readable by no one else. The rest is what the installation that injected has set.
func (s *secondCall) judgeArguments() {
	s.tokens = s.plan.tokens
	if slices.Equal(s.got.Args, s.want.Args) {
		return
	}
	if text := tooMuch(s.got.Args, s.want.Args); text != "" { // Reading it takes time.
		s.reject("args: %s", text)
		return
	}
	got, err := readArguments(s.got.Args)
	if err != nil {
		s.reject("args: %s", cutTo(err.Error(), 4*maxQuotedBytes))
		return
	}
	var tokens []api.TokenSpec
	for i, wanted := range s.plan.tokens {
		at := slices.IndexFunc(got.tokens, func(t api.TokenSpec) bool { return t.Name == wanted.Name })
		if at < 0 {
			s.reject("args have no token %q", wanted.Name)
			continue
		}
		s.judgeToken(got.tokens[at], wanted, s.plan.req.tokens[i].mode)
		tokens = append(tokens, got.tokens[at])
	}
	for _, token := range got.tokens {
		if !slices.ContainsFunc(s.plan.tokens, func(t api.TokenSpec) bool { return t.Name == token.Name }) {
			s.reject("args have the token %q, which no annotation names", token.Name)
		}
	}
	for _, name := range settingFlags {
		if got, want := got.settings[name], s.plan.req.flag(name); got != want {
			s.warn("args: --%s is %s, not %s", name, quote(got), quote(want))
		}
	}
	s.tokens = tokens
}

// tooMuch returns in which way these are more arguments than another installation could have written for the same annotations.
func tooMuch(got, want []string) string {
	size := func(args []string) (bytes int) {
		for _, arg := range args {
			bytes += len(arg)
		}
		return bytes
	}
	if most := len(want) + len(settingFlags); len(got) > most {
		return fmt.Sprintf("there are %d, at most %d are podtoken's", len(got), most)
	}
	if bytes, most := size(got), size(want)+maxArgumentBytes; bytes > most {
		return fmt.Sprintf("they have %d bytes, at most %d are podtoken's", bytes, most)
	}
	return ""
}

// judgeToken compares one token; mode is that of an annotation, empty for none.
func (s *secondCall) judgeToken(got, want api.TokenSpec, mode string) {
	sorted := func(list []string) []string { return slices.Sorted(slices.Values(list)) }
	field := func(name string) string { return fmt.Sprintf("args: %s of the token %q", name, want.Name) }
	if !slices.Equal(sorted(got.Audiences), sorted(want.Audiences)) {
		s.reject("%s is %s, not %s", field("audiences"), shown(got.Audiences), shown(want.Audiences))
	}
	if gotPaths, wantPaths := config.Paths(got), config.Paths(want); !slices.Equal(gotPaths, wantPaths) {
		s.reject("%s is %s, not %s", field("paths"), shown(gotPaths), shown(wantPaths))
	} else if text := valueDifference(field("files"), got.Files, want.Files); text != "" {
		s.warn("%s", text)
	}
	if longest := int64(s.plan.cfg.Tokens.MaxExpiration.Duration / time.Second); got.ExpirationSeconds > longest {
		s.reject("%s is %d, and this installation allows at most %d (tokens.maxExpiration)", field("expirationSeconds"), got.ExpirationSeconds, longest)
	} else if got.ExpirationSeconds != want.ExpirationSeconds {
		s.warn("%s is %d, not %d", field("expirationSeconds"), got.ExpirationSeconds, want.ExpirationSeconds)
	}
	if got.RefreshAtPercent != want.RefreshAtPercent {
		s.warn("%s is %d, not %d", field("refreshAtPercent"), got.RefreshAtPercent, want.RefreshAtPercent)
	}
	s.judgeMode(field("mode"), got.Mode, mode)
}

// judgeMode: without an annotation each mode of the table of identities will do, for another row can have held before.
func (s *secondCall) judgeMode(field, got, annotated string) {
	most := annotated
	if most == "" {
		most = "0444"
	}
	switch {
	case wider(got, most):
		s.reject("%s is %q, which lets others read what %q does not", field, got, most)
	case annotated != "" && got != annotated:
		s.warn("%s is %q, not %q", field, got, annotated)
	case annotated == "" && wider(got, s.plan.identity.mode):
		s.warn("%s is %q, and %q would do for the containers that are there now", field, got, s.plan.identity.mode)
	}
}

// wider reports whether a mode lets others read whom another does not.
func wider(mode, than string) bool {
	bits, err := config.ParseMode(mode)
	most, mostErr := config.ParseMode(than)
	return err != nil || mostErr != nil || bits&^most != 0
}
