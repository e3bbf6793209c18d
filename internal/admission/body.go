package admission

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	// expectedBytes is enough for nearly every answer; buffers grow beyond it when needed.
	expectedBytes = 16 << 10
	// pooledBytes is the largest buffer that is kept for the next answer.
	pooledBytes = 1 << 20
	// trustedBytes is the largest body for which there is memory before it has arrived.
	trustedBytes = 1 << 20
)

// bufferPool holds the buffers of answers.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) get() *[]byte {
	if buffer, ok := p.pool.Get().(*[]byte); ok {
		return buffer
	}
	buffer := make([]byte, 0, expectedBytes)
	return &buffer
}

func (p *bufferPool) put(buffer *[]byte) {
	if cap(*buffer) <= pooledBytes {
		*buffer = (*buffer)[:0]
		p.pool.Put(buffer)
	}
}

// readBody reads at most limit bytes; more are an *http.MaxBytesError. The memory is not used again: strings of the review
// are parts of it, and pods must not get into each other's answers by a mistake of ours.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	var body bytes.Buffer
	if r.ContentLength > 0 {
		body.Grow(int(min(r.ContentLength, trustedBytes)) + bytes.MinRead)
	}
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, limit)); err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	return body.Bytes(), nil
}

// timeBudget returns how long a review may take: nine tenths of the API server's own timeout, which it sends along as
// ?timeout=5s, so that our answer is there before the API server gives up; at most limit.
func timeBudget(target *url.URL, limit time.Duration) time.Duration {
	if target.RawQuery == "" {
		return limit
	}
	timeout, err := time.ParseDuration(target.Query().Get("timeout"))
	if err != nil || timeout <= 0 {
		return limit
	}
	return min(timeout-timeout/10, limit)
}

// setDeadlines bounds reading the body and writing the answer. A writer without deadlines (a test's recorder) is left
// without. net/http lifts both after each request.
func setDeadlines(w http.ResponseWriter, deadline time.Time) {
	controller := http.NewResponseController(w)
	_ = controller.SetReadDeadline(deadline)
	_ = controller.SetWriteDeadline(deadline.Add(writeGrace))
}

// writeGrace is what the answer to a review gets that ran into its deadline.
const writeGrace = time.Second
