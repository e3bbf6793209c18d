package tokensource_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
	"github.com/podtoken/podtoken/pkg/tokensource"
)

// An application that calls a service: the file is read for each request, so that the newest token is sent.
func ExampleNewTransport() {
	source := tokensource.NewFile(os.Getenv("VAULT_TOKEN_FILE"))
	client := &http.Client{
		Transport: tokensource.NewTransport(source, http.DefaultTransport),
		Timeout:   10 * time.Second,
	}

	answer, err := client.Get(os.Getenv("SERVICE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(body))
	// Output: the service got a token
}

// A library that wants an oauth2.TokenSource, as those of Google and gRPC's oauth.TokenSource, gets the File itself.
func ExampleFile() {
	source := tokensource.NewFile(os.Getenv("VAULT_TOKEN_FILE"))
	token, err := source.Token()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(token.Type(), time.Until(token.Expiry).Round(time.Hour))
	// Output: Bearer 1h0m0s
}

// The examples run with a file as the sidecar leaves it, and a service that looks at what it gets.
func TestMain(m *testing.M) {
	os.Exit(withService(m.Run))
}

func withService(run func() int) int {
	directory, err := os.MkdirTemp("", "podtoken-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(directory) }()
	file := filepath.Join(directory, "vault")
	token := jwttest.Encode(jwt.Claims{Audiences: []string{"vault"}, IssuedAt: time.Now(), Expires: time.Now().Add(time.Hour)})
	if err := os.WriteFile(file, []byte(token), 0o400); err != nil {
		log.Fatal(err)
	}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") == token {
			_, _ = w.Write([]byte("the service got a token"))
		}
	}))
	defer service.Close()
	_ = os.Setenv("VAULT_TOKEN_FILE", file)
	_ = os.Setenv("SERVICE_URL", service.URL)
	return run()
}
