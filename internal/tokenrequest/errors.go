package tokenrequest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar"
)

// maxMessageBytes bounds a message of the API server, which may quote whole lists.
const maxMessageBytes = 600

// namespaceTerminating comes before the API server's own message, which may be cut off.
const namespaceTerminating = "the namespace is being deleted, and the API server creates no tokens in it any more; the current token stays until it expires: " +
	"if the pod needs it for longer, set a longer " + api.AnnotationExpiration + " or a shorter terminationGracePeriodSeconds: "

// refused makes an error of an answer that is not a success. See the handler in
// k8s.io/kubernetes@v1.37.2/pkg/registry/core/serviceaccount/storage/token.go for who answers what.
func refused(answer *http.Response, body []byte, credential string) *sidecar.Error {
	var s status
	if json.Unmarshal(body, &s) != nil || s.Kind != "Status" {
		// A load balancer's page, perhaps: its text says nothing that the code does not.
		s = status{Message: "the answer is not of the API server's form"}
	}
	retryAfter := parseRetryAfter(answer.Header.Get("Retry-After"))
	if retryAfter == 0 {
		retryAfter = time.Duration(max(0, min(s.Details.RetryAfterSeconds, maxRetryAfterSeconds))) * time.Second
	}
	if slices.Contains(s.Details.Causes, cause{causeNamespaceTerminating}) {
		// The admission plugin NamespaceLifecycle: true of every token, the kubelet's too, and nothing that a right would change.
		s.Message = namespaceTerminating + s.Message
	}
	return &sidecar.Error{
		Class:      classOf(answer.StatusCode, retryAfter),
		Status:     answer.StatusCode,
		Reason:     clean(s.Reason, credential),
		Message:    clean(s.Message, credential),
		RetryAfter: retryAfter,
	}
}

func classOf(code int, retryAfter time.Duration) sidecar.Class {
	switch {
	case code == http.StatusUnauthorized:
		return sidecar.ClassUnauthorized
	case code == http.StatusForbidden:
		return sidecar.ClassForbidden
	case code == http.StatusNotFound:
		return sidecar.ClassNotFound
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable && retryAfter > 0:
		return sidecar.ClassThrottled
	case code == http.StatusRequestTimeout, code >= 500:
		return sidecar.ClassServer
	case code >= 400:
		return sidecar.ClassConfiguration
	}
	// A redirect, or a success that is none: not the API server that we know.
	return sidecar.ClassAnswer
}

const maxRetryAfterSeconds = 24 * 60 * 60

// parseRetryAfter reads seconds. The API server sends no dates there.
func parseRetryAfter(value string) time.Duration {
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, maxRetryAfterSeconds)) * time.Second
}

// clean makes text from elsewhere fit for logs: one line, bounded, without our credential or anything like a token.
func clean(text, credential string) string {
	if credential != "" {
		text = strings.ReplaceAll(text, credential, "[redacted]")
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = redactTokens(text)
	if len(text) > maxMessageBytes {
		text = strings.ToValidUTF8(text[:maxMessageBytes], "") + "..."
	}
	return text
}

// tokenStart is how every JWT begins: {" in base64.
const tokenStart = "eyJ"

// redactTokens replaces every word that looks like a JWT, or the start of one.
func redactTokens(text string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, tokenStart)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("[redacted]")
		text = strings.TrimLeftFunc(after, func(r rune) bool {
			return r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		})
	}
}
