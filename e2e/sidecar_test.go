package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podtoken/podtoken/pkg/api"
)

// What a pod's sidecar tells, as the tests read it: its log, and the pages on its port.

// metricsPort is the sidecar's in the tests' pods.
const metricsPort = "9102"

// logLine is what the tests look at in a line of the sidecar's log.
type logLine struct {
	Level, Msg        string
	Token, Problem    string
	Error, ErrorClass string
	Kind, JTI         string
	Restored          int
}

// said returns the lines of the sidecar's log with that message.
func (n *testNamespace) said(pod, message string) []logLine {
	n.t.Helper()
	var found []logLine
	for line := range strings.Lines(n.logs(pod, api.ContainerName)) {
		var l logLine
		must(n.t, json.Unmarshal([]byte(line), &l), "decoding the sidecar's line %q", line)
		if l.Msg == message {
			found = append(found, l)
		}
	}
	return found
}

// page asks a sidecar through the API server for a page on its port: the HTTP status and the text. The status is 503, too,
// when the API server does not reach it; the text tells.
func (n *testNamespace) page(pod, path string) (status int, text string) {
	n.t.Helper()
	body, err := n.client.CoreV1().Pods(n.name).ProxyGet("http", pod, metricsPort, path, nil).DoRaw(n.t.Context())
	status = http.StatusOK
	if refused, ok := errors.AsType[*apierrors.StatusError](err); ok {
		status = int(refused.Status().Code)
	} else {
		must(n.t, err, "asking %s/%s for %s", n.name, pod, path)
	}
	if strings.Contains(string(body), "eyJ") {
		n.t.Errorf("%s of %s/%s shows a token", path, n.name, pod)
	}
	return status, string(body)
}

// metrics are the values of a sidecar's metrics, by name with labels; none while its port is not open yet.
func (n *testNamespace) metrics(pod string) map[string]float64 {
	n.t.Helper()
	status, text := n.page(pod, api.PathMetrics)
	if status != http.StatusOK {
		return nil
	}
	values := map[string]float64{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, err := strconv.ParseFloat(value, 64)
		must(n.t, err, "reading the metric %q", line)
		values[name] = number
	}
	return values
}

// metric is the name of a sidecar's metric with its labels, given as name, value, name, value...
func metric(name string, labels ...string) string {
	pairs := make([]string, 0, len(labels)/2)
	for i := 1; i < len(labels); i += 2 {
		pairs = append(pairs, labels[i-1]+`="`+labels[i]+`"`)
	}
	return "podtoken_sidecar_" + name + "{" + strings.Join(pairs, ",") + "}"
}
