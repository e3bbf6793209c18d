// Package tokensource is for Go programs that read the token files of podtoken. It gives the token of a file to whatever
// wants one: an oauth2.TokenSource, or an http.RoundTripper.
//
//	source := tokensource.NewFile(os.Getenv("VAULT_TOKEN_FILE"))
//	client := &http.Client{Transport: tokensource.NewTransport(source, nil)}
//
// Programs that ask the API server for tokens themselves, as operators do, use the package tokenrequest below this one with
// the same Transport.
//
// The package links the standard library and golang.org/x/oauth2 only, so that reading a file costs nobody a client of
// Kubernetes; a test holds that. No error contains any part of a token. Do not add: verification of tokens, logs,
// Kubernetes clients.
package tokensource
