package serve

import (
	"bytes"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar"
)

// metrics writes the Prometheus text format, version 0.0.4: the client library would be 2.6 MB. Names and labels are in
// docs/reference.md; every series exists from the start, also at 0, so that the first failure is an increase.
func (s *Server) metrics() []byte {
	m := &exposition{}
	var tokens []sidecar.TokenSnapshot
	if last := s.last.Load(); last != nil {
		tokens = last.snapshot.Tokens
	}

	m.family("podtoken_sidecar_token_expiry_timestamp_seconds", "gauge", "When the token in the file ends, in seconds since 1970; 0 while there is none.")
	for _, t := range tokens {
		m.sample(unix(t.Expires), "token", t.Name)
	}
	m.family("podtoken_sidecar_token_last_success_timestamp_seconds", "gauge", "When the file was last written, or kept after a restart, in seconds since 1970; 0 for never.")
	for _, t := range tokens {
		m.sample(unix(t.LastSuccess), "token", t.Name)
	}
	m.family("podtoken_sidecar_token_asked_lifetime_seconds", "gauge", "The lifetime that is asked of the API server.")
	for _, t := range tokens {
		m.sample(strconv.FormatInt(t.AskedSeconds, 10), "token", t.Name)
	}
	m.family("podtoken_sidecar_token_granted_lifetime_seconds", "gauge", "The lifetime of the token in the file; 0 while there is none.")
	for _, t := range tokens {
		m.sample(strconv.FormatInt(t.GrantedSeconds, 10), "token", t.Name)
	}
	m.family("podtoken_sidecar_token_refreshes_total", "counter", "Files written with a new token, by what the token was asked for.")
	for _, t := range tokens {
		for _, cause := range sidecar.Causes() {
			m.sample(count(t.Refreshes[cause]), "token", t.Name, "cause", string(cause))
		}
	}
	m.family("podtoken_sidecar_token_failures_total", "counter", "Attempts to replace a token that failed, by the class of the failure.")
	for _, t := range tokens {
		for _, class := range sidecar.Classes() {
			m.sample(count(t.Failures[class]), "token", t.Name, "class", string(class))
		}
	}
	m.family("podtoken_sidecar_token_restored_files_total", "counter", "Files that somebody had deleted or changed and that were put back.")
	for _, t := range tokens {
		m.sample(count(t.Restored), "token", t.Name)
	}
	if s.config.Notifications != nil {
		notifications := s.config.Notifications()
		m.family("podtoken_sidecar_notifications_total", "counter", "Attempts to tell the application of changed files, by way and result.")
		for _, n := range notifications {
			m.sample(count(n.Successes), "kind", string(n.Kind), "result", "success")
			m.sample(count(n.Failures), "kind", string(n.Kind), "result", "failure")
		}
		m.family("podtoken_sidecar_notifications_pending_tokens", "gauge", "Tokens that have changed without the application having been told.")
		for _, n := range notifications {
			m.sample(strconv.Itoa(n.Pending), "kind", string(n.Kind))
		}
	}
	m.family("podtoken_sidecar_start_time_seconds", "gauge", "When the sidecar started, in seconds since 1970.")
	m.sample(unix(s.started))
	m.family("podtoken_sidecar_build_info", "gauge", "1, with the version of the sidecar and of Go.")
	m.sample("1", "version", s.config.Version, "goversion", runtime.Version())
	return m.out.Bytes()
}

// exposition writes one family after the other. A family without samples is left out: HELP and TYPE alone say nothing.
type exposition struct {
	out          bytes.Buffer
	name, header string
}

func (m *exposition) family(name, kind, help string) {
	m.name = name
	m.header = "# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n"
}

// sample writes a value with labels, given as name, value, name, value...
func (m *exposition) sample(value string, labels ...string) {
	m.out.WriteString(m.header)
	m.header = ""
	m.out.WriteString(m.name)
	separator := "{"
	for i := 1; i < len(labels); i += 2 {
		m.out.WriteString(separator + labels[i-1] + `="` + escape.Replace(labels[i]) + `"`)
		separator = ","
	}
	if len(labels) > 0 {
		m.out.WriteByte('}')
	}
	m.out.WriteString(" " + value + "\n")
}

// escape writes a label's value.
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func count(n uint64) string { return strconv.FormatUint(n, 10) }

func unix(t time.Time) string {
	if t.IsZero() {
		return "0"
	}
	return strconv.FormatInt(t.Unix(), 10)
}
