package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

// Minter asks the API server for tokens. internal/tokenrequest is the real one.
type Minter interface {
	// Mint asks for one token. Its errors are *Error; any other counts as ClassNetwork. It is called concurrently.
	Mint(ctx context.Context, spec api.TokenSpec) (Token, error)
	// Credential looks at our own API credential, without a request; it is cheap while nothing has changed. It is called
	// at least every minute, by one goroutine.
	Credential() Credential
	// Renew asks for another API credential, to be kept in memory, and tells who signed it. Its errors are as Mint's.
	Renew(ctx context.Context) (Signer, error)
	// Idle is called when nothing will be asked for a while: connections are closed.
	Idle()
}

// Credential is the state of our own API credential: the file that the kubelet replaces, and what was renewed.
type Credential struct {
	// Signer is that of the file; zero when it cannot be read.
	Signer Signer
	// RenewIn is when Renew is due, 0 or less for now, should nothing change until then.
	RenewIn time.Duration
	// Left is what should be left of the credential that lasts longest; 0 or less for none.
	Left time.Duration
	// Problem is why the file cannot be used; empty when it can.
	Problem string
}

// Signer is what a token tells about the cluster that issued it.
type Signer struct {
	KeyID, ServiceAccountUID string
	// IssuedAt is by the API server's clock.
	IssuedAt time.Time
}

// SignerOf is the Signer of a token.
func SignerOf(claims jwt.Claims) Signer {
	return Signer{KeyID: claims.KeyID, ServiceAccountUID: claims.ServiceAccountUID, IssuedAt: claims.IssuedAt}
}

// Writer replaces files below Config.Dir so that a reader sees the old content or the new, never a part.
// internal/atomicfile is the real one.
type Writer interface {
	// Write returns the file as it was when it took its place, and may have been changed since.
	Write(path string, content []byte, mode fs.FileMode) (fs.FileInfo, error)
	// Clean removes what a killed predecessor left behind.
	Clean() error
}

// Token is what the API server answered.
type Token struct {
	Secret Secret
	Claims jwt.Claims
	// Expires is the answer's expirationTimestamp.
	Expires time.Time
}

// Secret is a token's text. Printing, logging or encoding it shows nothing; only a conversion to string does.
type Secret string

const redacted = "[redacted]"

// String hides the secret.
func (Secret) String() string { return redacted }

// Format hides the secret from every verb of fmt.
func (Secret) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue hides the secret from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the secret from encoding/json.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Class is what kind of failure stopped a refresh. It decides about the delay: see the table at backoff.
type Class string

// Classes of failures: a closed set, used in logs, in the status file and as a metric label.
const (
	// ClassUnauthorized: 401, our credentials were refused, the file's also after reading it again.
	ClassUnauthorized Class = "Unauthorized"
	// ClassForbidden: 403, no permission (yet), or a policy.
	ClassForbidden Class = "Forbidden"
	// ClassNotFound: 404, the ServiceAccount or our pod is gone.
	ClassNotFound Class = "NotFound"
	// ClassConfiguration: 400, 409, 413, 422 and other 4xx: what we ask for is not accepted.
	ClassConfiguration Class = "Configuration"
	// ClassThrottled: 429, or a 503 with Retry-After.
	ClassThrottled Class = "Throttled"
	// ClassServer: 5xx.
	ClassServer Class = "Server"
	// ClassNetwork: no answer: connection, TLS, timeout.
	ClassNetwork Class = "Network"
	// ClassAnswer: the answer is not the token that was asked for.
	ClassAnswer Class = "Answer"
	// ClassCredential: our own credential or the CA cannot be read.
	ClassCredential Class = "Credential"
	// ClassFile: the file cannot be written.
	ClassFile Class = "File"
)

// Classes lists every Class, in the order above.
func Classes() []Class {
	return []Class{
		ClassUnauthorized, ClassForbidden, ClassNotFound, ClassConfiguration, ClassThrottled,
		ClassServer, ClassNetwork, ClassAnswer, ClassCredential, ClassFile,
	}
}

// Error is a failed refresh.
type Error struct {
	Class Class
	// Status is the HTTP status; 0 without an answer.
	Status int
	// Reason is the API server's reason, as "Forbidden".
	Reason string
	// Message never holds a token, and has a bounded length.
	Message string
	// RetryAfter is what the server asked to wait; 0 for nothing.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Class))
	if e.Status != 0 {
		b.WriteString(" (HTTP " + strconv.Itoa(e.Status))
		if e.Reason != "" && e.Reason != string(e.Class) {
			b.WriteString(" " + e.Reason)
		}
		b.WriteString(")")
	}
	b.WriteString(": " + e.Message)
	return b.String()
}

// asError finds the *Error in err, or makes one.
func asError(err error, otherwise Class) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Class: otherwise, Message: err.Error()}
}
