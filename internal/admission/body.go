package admission

import (
	"errors"
	"fmt"
	"io"
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
	// smallBytes is what each review may have without asking for it: more than most need. The memory of all connections has
	// room for it.
	smallBytes = 32 << 10
	// firstBytes are taken when the first byte has arrived, as much as net/http has read by then.
	firstBytes = 4 << 10
	// growth is how many times the bytes that have arrived there is memory for.
	growth = 8
	// bodyTimeout bounds reading a body. API servers send it together with the header.
	bodyTimeout = 2 * time.Second
	// answerTimeout bounds writing an answer.
	answerTimeout = 2 * time.Second
)

// errNoMemory is that of a body for which there was no memory.
var errNoMemory = errors.New("no memory for the body")

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
// are parts of it, and pods must not get into each other's answers by a bug.
//
// Memory follows the bytes, whatever length was announced: none before the first one, and then eight times of what has arrived
// at most. What goes beyond smallBytes is held.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, held *holding, deadline time.Time) ([]byte, error) {
	limit := h.config.MaxRequestBytes
	announced := r.ContentLength
	if announced > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	reader := http.MaxBytesReader(w, r.Body, limit)
	body := make([]byte, 0, 1)
	taken := smallBytes
	for {
		n, err := reader.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case errors.Is(err, io.EOF):
			return body, nil
		case err != nil:
			return nil, fmt.Errorf("reading the body: %w", err)
		case len(body) < cap(body):
			continue
		}
		// One byte more than there can be, in which the end is read.
		size := min(max(growth*len(body), firstBytes), int(limit)+1)
		if announced >= 0 {
			size = min(size, int(announced)+1)
		}
		if size > taken {
			if !held.grow(r.Context(), int64(size-taken), deadline) {
				return nil, errNoMemory
			}
			taken = size
		}
		body = append(make([]byte, 0, size), body...)
	}
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

// setReadDeadline bounds reading the body, and setWriteDeadline writing the answer. A writer without deadlines (a test's
// recorder) is left without. net/http lifts both after each request.
func setReadDeadline(w http.ResponseWriter, deadline time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(deadline)
}

func setWriteDeadline(w http.ResponseWriter, deadline time.Time) {
	_ = http.NewResponseController(w).SetWriteDeadline(deadline)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
