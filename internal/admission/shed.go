package admission

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/podtoken/podtoken/pkg/api"
)

const (
	// DefaultMaxInFlight is more than a busy API server has on the way at once, and less than what two cores answer in
	// half a second, however large the pods are.
	DefaultMaxInFlight = 256
	// memoryRequests is how many reviews of the largest size there is memory for. Those of usual size are small change.
	memoryRequests = 4
	// memoryWait is how long a review waits for that memory.
	memoryWait = time.Second
	// retryAfterSeconds is when the API server is to ask again.
	retryAfterSeconds = "1"
)

// shedder keeps the number of reviews that are worked on, and the memory for their bodies, within bounds: when there are
// more, it is better to refuse some at once than to answer all too late. The API server asks again after a refusal with
// status 429 and a Retry-After, up to ten times within the webhook's timeout
// (k8s.io/client-go@v0.37.2/rest/with_retry.go, checkWait).
type shedder struct {
	maxInFlight int64
	inFlight    atomic.Int64
	memory      *semaphore.Weighted
}

func newShedder(maxInFlight int, maxRequestBytes int64) *shedder {
	return &shedder{maxInFlight: int64(maxInFlight), memory: semaphore.NewWeighted(memoryRequests * maxRequestBytes)}
}

// enter takes in a review; leave is called in any case.
func (s *shedder) enter() bool { return s.inFlight.Add(1) <= s.maxInFlight }

func (s *shedder) leave() { s.inFlight.Add(-1) }

// reserve waits a moment for the memory of a body of the length, negative for an unknown one, and at most limit.
func (s *shedder) reserve(ctx context.Context, length, limit int64, deadline time.Time) (release func(), ok bool) {
	if length < 0 || length > limit {
		length = limit
	}
	if !s.memory.TryAcquire(length) {
		if wait := time.Now().Add(memoryWait); wait.Before(deadline) {
			deadline = wait
		}
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		if s.memory.Acquire(ctx, length) != nil {
			return nil, false
		}
	}
	return func() { s.memory.Release(length) }, true
}

// refuse makes the API server call again a little later, over a new connection, which may lead to another replica. The body
// is read to its end, into nothing: a client that is still writing when the connection closes may never see the answer.
func refuse(w http.ResponseWriter, r *http.Request, limit int64) verdict {
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, limit))
	w.Header().Set("Retry-After", retryAfterSeconds)
	w.Header().Set("Connection", "close")
	return httpError(http.StatusTooManyRequests, api.ReasonOverloaded, "too many reviews at once (--max-in-flight, --max-request-bytes): ask again")
}
