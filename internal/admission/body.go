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
	// expectedBytes is enough for nearly every review; buffers grow beyond it when needed.
	expectedBytes = 32 << 10
	// pooledBytes is the largest buffer that is kept for the next review.
	pooledBytes = 1 << 20
)

// bufferPool holds the buffers of bodies and of answers.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) get() *bytes.Buffer {
	if buffer, ok := p.pool.Get().(*bytes.Buffer); ok {
		return buffer
	}
	return bytes.NewBuffer(make([]byte, 0, expectedBytes))
}

func (p *bufferPool) put(buffer *bytes.Buffer) {
	if buffer.Cap() <= pooledBytes {
		buffer.Reset()
		p.pool.Put(buffer)
	}
}

// readBody reads at most limit bytes; more are an *http.MaxBytesError. A length that the client announces is only
// trusted up to pooledBytes before that much has arrived.
func readBody(w http.ResponseWriter, r *http.Request, into *bytes.Buffer, limit int64) error {
	if r.ContentLength > limit {
		return &http.MaxBytesError{Limit: limit}
	}
	if r.ContentLength > 0 {
		into.Grow(int(min(r.ContentLength, pooledBytes-bytes.MinRead)) + bytes.MinRead)
	}
	if _, err := into.ReadFrom(http.MaxBytesReader(w, r.Body, limit)); err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	return nil
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
