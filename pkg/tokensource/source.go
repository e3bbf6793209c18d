package tokensource

import (
	"context"
	"errors"

	"golang.org/x/oauth2"
)

// Source is where a Transport gets its tokens. It is safe for any number of goroutines.
type Source interface {
	// Token is TokenContext without a deadline of the caller's; it makes every Source an oauth2.TokenSource.
	Token() (*oauth2.Token, error)
	// TokenContext returns a token that has not expired, or an error.
	TokenContext(ctx context.Context) (*oauth2.Token, error)
	// Refused tells that a receiver did not take an access token of this source, so that it is not handed out from
	// memory again. The next TokenContext may return the same one all the same, if there is no other.
	Refused(accessToken string)
}

// ErrExpired is wrapped by the error for a token whose time is over. A file's token expires when whoever refreshes it has
// not been able to; the next call looks again.
var ErrExpired = errors.New("the token has expired")
