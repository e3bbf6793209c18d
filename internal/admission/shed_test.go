package admission

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/pkg/mutate"
)

// An API server under whose calls the webhook breaks down gets quick refusals, asks again, and has its answers in the end.
// The client is the API server's own (k8s.io/apiserver@v0.37.2/pkg/util/webhook/client.go).
func TestAPIServersAskAgain(t *testing.T) {
	h := newHarness(t)
	h.shedder = newShedder(2, DefaultMaxRequestBytes)
	gate := make(chan struct{})
	real := h.mutate
	h.mutate = func(in mutate.Input) mutate.Result {
		<-gate
		return real(in)
	}
	server := httptest.NewTLSServer(h)
	defer server.Close()
	client := webhookClient(t, server)
	body := newReview(t, "u-1", newPod(shapes["large"], annotated()))

	const calls = 12
	var group sync.WaitGroup
	for range calls {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			answer := &admissionv1.AdmissionReview{}
			if err := client.Post().SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Into(answer); err != nil {
				t.Errorf("calling the webhook: %v", err)
			} else if answer.Response == nil || !answer.Response.Allowed || len(answer.Response.Patch) == 0 {
				t.Errorf("response: %v", answer.Response)
			}
		})
	}
	for deadline := time.Now().Add(8 * time.Second); h.counts(t)["Error/Overloaded"] < calls-2 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	close(gate)
	group.Wait()
	server.Close() // An answer is counted after it was sent.
	if counts := h.counts(t); counts["Injected/Sidecar"] != calls || counts["Error/Overloaded"] < calls-2 {
		t.Errorf("counts %v, want %d pods injected, and %d refusals or more before", counts, calls, calls-2)
	}
}

// webhookClient returns the client with which API servers call webhooks.
func webhookClient(t *testing.T, server *httptest.Server) *rest.RESTClient {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := admissionv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	transport, _ := server.Client().Transport.(*http.Transport)
	client, err := rest.UnversionedRESTClientFor(&rest.Config{
		Host: server.URL, APIPath: "/mutate", QPS: -1, Transport: transport,
		ContentConfig: rest.ContentConfig{
			NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion(), ContentType: "application/json",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestRefusal(t *testing.T) {
	h := newHarness(t)
	h.shedder = newShedder(0, DefaultMaxRequestBytes)
	request := newRequest(reviewOf(asksForVault))
	w := h.serve(request)
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || w.Header().Get("Connection") != "close" {
		t.Errorf("%d, headers %v, want 429 with Retry-After and Connection: close", w.Code, w.Header())
	}
	if rest, err := io.ReadAll(request.Body); len(rest) > 0 || err != nil {
		t.Errorf("%d bytes of the body were not read: a client that still writes them may not see the answer (%v)", len(rest), err)
	}
}

// The same without memory for the body.
func TestRefusalWithoutMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		h.shedder = newShedder(1, 1)
		request := newRequest(reviewOf(asksForVault + `, "filler": "` + strings.Repeat("x", 2*smallBytes) + `"`))
		w := h.serve(request)
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || w.Header().Get("Connection") != "close" {
			t.Errorf("%d, headers %v, want 429 with Retry-After and Connection: close", w.Code, w.Header())
		}
		if rest, err := io.ReadAll(request.Body); len(rest) > 0 || err != nil {
			t.Errorf("%d bytes of the body were not read (%v)", len(rest), err)
		}
	})
}

// A review waits a second for memory, not longer than its deadline, and gets it when it is free before.
func TestWaitForMemory(t *testing.T) {
	tests := map[string]struct {
		deadline, freeAfter time.Duration
		ok                  bool
		took                time.Duration
	}{
		"free in time":                      {5 * time.Second, 300 * time.Millisecond, true, 300 * time.Millisecond},
		"not free within a second":          {5 * time.Second, 2 * time.Second, false, time.Second},
		"not free before the deadline":      {500 * time.Millisecond, 2 * time.Second, false, 500 * time.Millisecond},
		"free, but the deadline has passed": {-time.Second, 2 * time.Second, false, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShedder(1, 100)
				other := s.newHolding(func() {})
				if !other.grow(t.Context(), memoryRequests*100-1, time.Now()) {
					t.Fatal("there was no memory at the start")
				}
				time.AfterFunc(test.freeAfter, other.release)
				start := time.Now()
				held := s.newHolding(func() {})
				if ok := held.grow(t.Context(), 2, start.Add(test.deadline)); ok != test.ok {
					t.Errorf("got memory: %t, want %t", ok, test.ok)
				}
				if took := time.Since(start); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				if !s.newHolding(func() {}).grow(t.Context(), 1, start) {
					t.Error("a small body that fits has to wait for a large one")
				}
				held.release()
				time.Sleep(3 * time.Second)
			})
		})
	}
}

// What has had memory for longest, and for half a second at least, is ended when others need it; no more of it than needed.
func TestWhatTakesLongMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShedder(1, 100)
		var ended []string
		hold := func(name string, bytes int64) *holding {
			var h *holding
			h = s.newHolding(func() {
				ended = append(ended, name)
				time.AfterFunc(time.Millisecond, h.release) // as the handler does when its connection fails
			})
			if !h.grow(t.Context(), bytes, time.Now().Add(time.Second)) {
				t.Fatalf("no memory for %s", name)
			}
			return h
		}
		for _, name := range []string{"first", "second", "third"} {
			hold(name, 100)
			time.Sleep(10 * time.Millisecond)
		}
		young := s.newHolding(func() { ended = append(ended, "young") })
		time.Sleep(time.Second)
		start := time.Now()
		late := s.newHolding(func() { ended = append(ended, "late") })
		if !young.grow(t.Context(), 100, start.Add(time.Second)) || !late.grow(t.Context(), 150, start.Add(time.Second)) {
			t.Fatal("no memory, although others have had theirs for a second")
		}
		if took := time.Since(start); took > 2*memoryLook {
			t.Errorf("took %v", took)
		}
		if got := strings.Join(ended, " "); got != "first second" {
			t.Errorf("ended %q, want the two that began first", got)
		}
		// What has just begun is left alone; the next one waits, and the third is ended when it is half a second old, or is.
		if !s.newHolding(func() {}).grow(t.Context(), 100, time.Now().Add(time.Second)) || strings.Join(ended, " ") != "first second third" {
			t.Errorf("ended %q, want the third too", ended)
		}
		fresh := s.newHolding(func() {})
		young.release()
		late.release()
		time.Sleep(time.Second)
		_ = fresh
	})
}
