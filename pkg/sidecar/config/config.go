// Package config decodes and checks the configuration of a sidecar: the arguments that the webhook wrote and the pod's identity.
//
// It does no I/O, and runs in every pod of podtoken's users: the standard library, pkg/api and pkg/tokenfile only.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

// Config is what one sidecar keeps and does. Validate before use; it is never changed afterwards.
type Config struct {
	Pod    Pod
	Tokens []api.TokenSpec
	// Dir holds the token files.
	Dir string

	// Notify is the loopback URL that is POSTed after files changed; empty for none.
	Notify string
	// NotifySignal is sent after files changed; the zero value for none.
	NotifySignal Signal
	// MetricsPort is the port of /metrics, /healthz and /readyz; 0 opens none.
	MetricsPort int
}

// Pod is the identity that every token is bound to.
type Pod struct {
	Namespace, Name, UID string
	ServiceAccount       string
}

// Signal names a signal and the process of the pod that gets it.
type Signal struct {
	Name, Process string
}

// maxProcessNameBytes is what the kernel keeps of a process's name in /proc/PID/comm: a longer one is no process's.
const maxProcessNameBytes = 15

// ParseSignal decodes the value of --notify-signal.
func ParseSignal(value string) (Signal, error) {
	name, process, found := strings.Cut(value, ":")
	if !found || !slices.Contains(api.NotifySignals(), name) || process == "" || len(process) > maxProcessNameBytes || hasControl(process) {
		return Signal{}, fmt.Errorf("signal %q: want SIGNAL:process-name, where the signal is one of %s, and the name, of at most %d bytes, is as in /proc/PID/comm",
			value, strings.Join(api.NotifySignals(), ", "), maxProcessNameBytes)
	}
	return Signal{Name: name, Process: process}, nil
}

// ParseMode decodes the mode of a token's file: four octal digits.
func ParseMode(value string) (fs.FileMode, error) {
	bits, err := strconv.ParseUint(value, 8, 32)
	if err != nil || len(value) != 4 || value[0] != '0' || bits&0o400 == 0 || bits&0o022 != 0 {
		return 0, fmt.Errorf("mode %q: want four octal digits as 0400, readable by the owner, not writable by group or others", value)
	}
	return fs.FileMode(bits), nil
}

// Validate reports everything that is wrong, each problem on a line.
func (c *Config) Validate() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for _, e := range []struct{ name, value string }{
		{api.EnvPodNamespace, c.Pod.Namespace},
		{api.EnvPodName, c.Pod.Name},
		{api.EnvPodUID, c.Pod.UID},
		{api.EnvServiceAccount, c.Pod.ServiceAccount},
	} {
		if e.value == "" || hasControl(e.value) || strings.ContainsAny(e.value, "/?#%") {
			problem("environment variable %s is %q: it must hold what the downward API gives; let the webhook inject the container", e.name, e.value)
		}
	}
	if len(c.Tokens) == 0 {
		problem("no token to keep: give at least one --%s", api.FlagToken)
	}
	taken, names := newPlaces(), map[string]bool{}
	for _, spec := range c.Tokens {
		if err := validateToken(spec); err != nil {
			problems = append(problems, err)
			continue
		}
		if names[spec.Name] {
			problem("token %q is given twice", spec.Name)
			continue
		}
		names[spec.Name] = true
		for _, path := range Paths(spec) {
			if other, free := taken.take(place{path, spec.Name}); !free {
				problem("tokens %q and %q cannot have the paths %q and %q: one would be the other's file or folder", other.token, spec.Name, other.path, path)
			}
		}
	}
	if err := validateNotify(c.Notify); err != nil {
		problems = append(problems, err)
	}
	if c.MetricsPort < 0 || c.MetricsPort > 65535 {
		problem("metrics port %d: want 1 to 65535, or 0 for none", c.MetricsPort)
	}
	return errors.Join(problems...)
}

func validateToken(spec api.TokenSpec) error {
	problem := func(format string, args ...any) error {
		return fmt.Errorf("token %q: "+format, append([]any{spec.Name}, args...)...)
	}
	if !isLabel(spec.Name) {
		return problem("the name must be lower case letters, digits and '-', at most %d", api.MaxTokenNameLength)
	}
	if len(spec.Audiences) == 0 || len(spec.Audiences) > api.MaxAudiences {
		// An empty list would make the API server fill in its own audience, an API credential.
		return problem("it has %d audiences, want 1 to %d", len(spec.Audiences), api.MaxAudiences)
	}
	for i, audience := range spec.Audiences {
		if audience == "" || hasControl(audience) {
			return problem("audience %q must not be empty or have control characters", audience)
		}
		if slices.Contains(spec.Audiences[:i], audience) {
			return problem("audience %q is given twice", audience)
		}
	}
	if spec.ExpirationSeconds < api.MinExpirationSeconds || spec.ExpirationSeconds > api.MaxExpirationSeconds {
		return problem("expirationSeconds %d: want %d to %d", spec.ExpirationSeconds, api.MinExpirationSeconds, int64(api.MaxExpirationSeconds))
	}
	if spec.ExpirationSeconds == api.ForbiddenExpirationSeconds {
		return problem("expirationSeconds %d may be extended to a year by the API server: use another number", spec.ExpirationSeconds)
	}
	if !IsFilePath(spec.Path) && !(len(spec.Files) > 0 && IsHidden(spec.Name, spec.Path)) {
		return problem("path %q: want a relative path without '..', '//', control characters or segments that begin with %q", spec.Path, api.ReservedPrefix)
	}
	if _, err := ParseMode(spec.Mode); err != nil {
		return problem("%w", err)
	}
	if spec.RefreshAtPercent < api.MinRefreshAtPercent || spec.RefreshAtPercent > api.MaxRefreshAtPercent {
		return problem("refreshAtPercent %d: want %d to %d", spec.RefreshAtPercent, api.MinRefreshAtPercent, api.MaxRefreshAtPercent)
	}
	taken := newPlaces()
	taken.take(place{path: spec.Path})
	for _, file := range spec.Files {
		if !IsFilePath(file.Path) {
			return problem("path %q of a file: want one as that of a token", file.Path)
		}
		if other, free := taken.take(place{path: file.Path}); !free {
			return problem("it cannot have files of the paths %q and %q: one would be the other's file or folder", other.path, file.Path)
		}
		if err := tokenfile.Check(file.Steps, spec.Audiences); err != nil {
			return problem("steps of the file %q: %w", file.Path, err)
		}
	}
	return nil
}

// IsHidden reports whether path is that of a token which applications read in another format.
func IsHidden(token, path string) bool { return isLabel(token) && path == api.TokenPrefix+token }

// Paths are those of all files of a token, its own first.
func Paths(spec api.TokenSpec) []string {
	paths := make([]string, 0, 1+len(spec.Files))
	paths = append(paths, spec.Path)
	for _, file := range spec.Files {
		paths = append(paths, file.Path)
	}
	return paths
}

func validateNotify(value string) error {
	if value == "" {
		return nil
	}
	target, err := url.Parse(value)
	if err == nil && target.Scheme == "http" && target.User == nil && target.Fragment == "" {
		address, err := netip.ParseAddr(target.Hostname())
		if target.Hostname() == "localhost" || err == nil && address.IsLoopback() && address.Zone() == "" {
			return nil
		}
	}
	return fmt.Errorf("notify URL %q: want http://localhost:PORT/PATH; only the pod's own loopback is allowed", value)
}

func isLabel(name string) bool {
	for i, c := range []byte(name) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alphanumeric && (c != '-' || i == 0 || i == len(name)-1) {
			return false
		}
	}
	return name != "" && len(name) <= api.MaxTokenNameLength
}

// IsFilePath reports whether path may be a token's file. It is asked of the paths in the status file as well.
func IsFilePath(path string) bool {
	if !fs.ValidPath(path) || path == "." || len(path) > 1024 || hasControl(path) {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(segment, api.ReservedPrefix) || len(segment) > 255 {
			return false
		}
	}
	return true
}

// place is where a file of a token is.
type place struct{ path, token string }

// places are those that are taken. Looking for another costs the length of its path, however many there are.
type places struct{ files, folders map[string]place }

func newPlaces() places { return places{map[string]place{}, map[string]place{}} }

// take adds a place. When it is, or is inside of, another, or the other way round, it returns that one.
func (p places) take(wanted place) (other place, free bool) {
	if other, there := p.files[wanted.path]; there {
		return other, false
	}
	if other, there := p.folders[wanted.path]; there {
		return other, false
	}
	var folders []string
	for i, c := range wanted.path {
		if c != '/' {
			continue
		}
		folder := wanted.path[:i]
		if other, there := p.files[folder]; there {
			return other, false
		}
		folders = append(folders, folder)
	}
	p.files[wanted.path] = wanted
	for _, folder := range folders {
		p.folders[folder] = wanted
	}
	return wanted, true
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }
