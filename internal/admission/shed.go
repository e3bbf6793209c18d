package admission

import (
	"container/list"
	"context"
	"io"
	"net/http"
	"sync"
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
	// memoryPatience is how long a review may keep memory that another one waits for: an API server sends a body at once and
	// reads the answer at once.
	memoryPatience = 500 * time.Millisecond
	// memoryLook is how often one that waits looks for others that have had it for too long.
	memoryLook = 50 * time.Millisecond
	// retryAfterSeconds is when the API server is to ask again.
	retryAfterSeconds = "1"
)

// shedder keeps the number of reviews that are decided at once, and the memory for their bodies and answers, within bounds:
// when there are more, it is better to refuse some at once than to answer all too late. The API server asks again after a
// refusal with status 429 and a Retry-After, up to ten times within the webhook's timeout
// (k8s.io/client-go@v0.37.2/rest/with_retry.go, checkWait).
//
// Callers that are no API servers must not keep others out. So nothing counts before it is there: a review is in flight when
// its body has arrived, and a body takes memory as it arrives. What takes memory for long goes when others need it.
type shedder struct {
	maxInFlight int64
	inFlight    atomic.Int64
	memory      *semaphore.Weighted

	mu      sync.Mutex
	holders list.List // of *holding, those that began first in front
}

func newShedder(maxInFlight int, maxRequestBytes int64) *shedder {
	return &shedder{maxInFlight: int64(maxInFlight), memory: semaphore.NewWeighted(memoryRequests * maxRequestBytes)}
}

// enter takes in a review whose body has arrived; leave is called in any case.
func (s *shedder) enter() bool { return s.inFlight.Add(1) <= s.maxInFlight }

func (s *shedder) leave() { s.inFlight.Add(-1) }

// holding is the memory of one review.
type holding struct {
	shedder *shedder
	start   time.Time
	// end makes the review's connection fail.
	end     func()
	bytes   int64
	element *list.Element // in shedder.holders, if there are bytes
	ended   bool
}

func (s *shedder) newHolding(end func()) *holding {
	return &holding{shedder: s, start: time.Now(), end: end}
}

// grow takes so many bytes more, and waits a moment for them if need be.
func (h *holding) grow(ctx context.Context, bytes int64, deadline time.Time) bool {
	s := h.shedder
	if !s.memory.TryAcquire(bytes) && !s.wait(ctx, bytes, h, deadline) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h.bytes += bytes
	if h.element == nil {
		before := s.holders.Back()
		for before != nil && before.Value.(*holding).start.After(h.start) {
			before = before.Prev()
		}
		if before == nil {
			h.element = s.holders.PushFront(h)
		} else {
			h.element = s.holders.InsertAfter(h, before)
		}
	}
	return true
}

// release gives all of it back. The connection is not ended after that.
func (h *holding) release() {
	s := h.shedder
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.element != nil {
		s.holders.Remove(h.element)
		h.element = nil
	}
	s.memory.Release(h.bytes)
	h.bytes = 0
}

// wait acquires memory within memoryWait, and not later than at the deadline.
func (s *shedder) wait(ctx context.Context, bytes int64, h *holding, deadline time.Time) bool {
	if limit := time.Now().Add(memoryWait); limit.Before(deadline) {
		deadline = limit
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	for ctx.Err() == nil {
		s.endLongest(bytes, h)
		look, stop := context.WithTimeout(ctx, memoryLook)
		err := s.memory.Acquire(look, bytes)
		stop()
		if err == nil {
			return true
		}
	}
	return false
}

// endLongest ends reviews that have had memory for longest, and for too long, until there will be so many bytes.
func (s *shedder) endLongest(bytes int64, asks *holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for element := s.holders.Front(); element != nil && bytes > 0; element = element.Next() {
		h := element.Value.(*holding)
		if h == asks || time.Since(h.start) < memoryPatience {
			return
		}
		bytes -= h.bytes
		if !h.ended {
			h.ended = true
			h.end()
		}
	}
}

// discard reads a body to its end, into nothing: a client that is still writing when the connection closes may never see the
// answer.
func discard(w http.ResponseWriter, r *http.Request, limit int64) {
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, limit))
}

// refuse makes the API server call again a little later, over a new connection, which may lead to another replica.
func refuse(w http.ResponseWriter) verdict {
	w.Header().Set("Retry-After", retryAfterSeconds)
	return httpError(http.StatusTooManyRequests, api.ReasonOverloaded, "too many reviews at once (--max-in-flight, --max-request-bytes): ask again")
}
