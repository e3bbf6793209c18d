// Command app calls a service with the token that podtoken keeps fresh: it reads the file for each request.
package main

import (
	"context"
	"crypto/sha256"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// tokenTransport sends the file's token along with each request. Reading it costs microseconds: it is in memory, and
// complete at any time. Nothing of it is kept but a checksum, to notice a change.
type tokenTransport struct {
	file string
	next http.RoundTripper

	mu  sync.Mutex
	sum [sha256.Size]byte
}

func (t *tokenTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	token, err := os.ReadFile(t.file)
	if err != nil {
		return nil, err
	}
	t.notice(token)
	request = request.Clone(request.Context())
	request.Header.Set("Authorization", "Bearer "+string(token))
	return t.next.RoundTrip(request)
}

// notice is where sessions that were opened with the old token would be opened again.
func (t *tokenTransport) notice(token []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := sha256.Sum256(token)
	if t.sum != sum && t.sum != [sha256.Size]byte{} {
		log.Print("the token has changed")
	}
	t.sum = sum
}

func call(client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	log.Print("the service answered ", answer.Status)
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

func main() {
	seconds, err := strconv.ParseFloat(os.Getenv("EVERY_SECONDS"), 64)
	if err != nil {
		log.Fatal("EVERY_SECONDS: ", err)
	}
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &tokenTransport{file: os.Getenv("VAULT_TOKEN_FILE"), next: http.DefaultTransport},
	}
	for {
		if err := call(client, os.Getenv("SERVICE_URL")); err != nil {
			log.Print("the call failed: ", err)
		}
		time.Sleep(time.Duration(seconds * float64(time.Second)))
	}
}
