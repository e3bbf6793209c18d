package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// address is where the services are, all with one certificate.
const address = ":8443"

// lifetime is that of what services give for a token. It is much shorter than what the real ones give, so that clients come
// again within a second or two instead of an hour.
const lifetime = 5 * time.Second

// grace is how much longer the services take it. Clients end their use by their own clocks; one that was held up between looking at the clock
// and being heard, by a busy machine, has done nothing wrong.
const grace = 10 * time.Minute

// server is all services: each takes a token that it verifies, and gives something in return by which it knows the client afterwards.
type server struct {
	issuer  *issuer
	subject string

	mu sync.Mutex
	// given has what clients got.
	given map[string]session
}

// session is what a client has for a token.
type session struct {
	id   string // of the token
	ends time.Time
}

func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	subject := flags.String("subject", "", "the subject that the services trust")
	certificate := flags.String("cert", "", "file of the certificate")
	key := flags.String("key", "", "file of its key")
	if err := flags.Parse(args); err != nil {
		return err
	}
	issuer, err := discover(ctx)
	if err != nil {
		return err
	}
	method, err := newVaultMethod(ctx, issuer, *subject)
	if err != nil {
		return err
	}
	s := &server{issuer: issuer, subject: *subject, given: map[string]session{}}
	mux := http.NewServeMux()
	s.aws(mux)
	s.azure(mux)
	s.google(mux)
	s.vault(mux, method)
	s.plain(mux)
	listener := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = listener.Close()
	}()
	if err := listener.ListenAndServeTLS(*certificate, *key); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// accept verifies a token for one of the services.
func (s *server) accept(r *http.Request, token, audience string) (string, error) {
	id, err := s.issuer.verify(r.Context(), token, audience, s.subject)
	s.log(r, id, err)
	return id, err
}

// log tells which token a service has accepted, or why it has refused one.
func (s *server) log(r *http.Request, id string, refusal error) {
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil)).With("path", r.URL.Path)
	if refusal != nil {
		log.Info("Refused", "reason", refusal.Error()) //nolint:gosec // what a test has sent; JSON escapes it
		return
	}
	log.Info("Accepted", "id", id) //nolint:gosec // as above
}

// give returns a new secret by which the client is known from now on.
func (s *server) give(id string) string {
	secret := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given[secret] = session{id, time.Now().Add(lifetime + grace)}
	return secret
}

// whose returns the ID of the token for which the secret was given.
func (s *server) whose(secret string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, ok := s.given[secret]
	return session.id, ok && time.Now().Before(session.ends)
}

// plain has what takes the token itself, and /whoami, which takes the access tokens of Azure and Google.
func (s *server) plain(mux *http.ServeMux) {
	mux.HandleFunc("GET /invoices", func(w http.ResponseWriter, r *http.Request) {
		id, err := s.accept(r, bearer(r), "https://billing.example.com")
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		answer(w, http.StatusOK, Line{ID: id})
	})
	mux.HandleFunc("GET /whoami", func(w http.ResponseWriter, r *http.Request) {
		id, ok := s.whose(bearer(r))
		if !ok {
			http.Error(w, "the access token is not known", http.StatusUnauthorized)
			return
		}
		answer(w, http.StatusOK, Line{ID: id})
	})
}

func bearer(r *http.Request) string {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return token
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // if the client has gone, it is not needed
}
