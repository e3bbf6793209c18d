package admission

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
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
	if w.Header().Get("Retry-After") != "1" || w.Header().Get("Connection") != "close" {
		t.Errorf("headers %v, want Retry-After and Connection: close", w.Header())
	}
	if rest, err := io.ReadAll(request.Body); len(rest) > 0 || err != nil {
		t.Errorf("%d bytes of the body were not read: a client that still writes them may not see the answer (%v)", len(rest), err)
	}
}

// A review waits a second for memory, not longer than its deadline, and gets it when it is free before.
func TestReserve(t *testing.T) {
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
				for range memoryRequests - 1 {
					if _, ok := s.reserve(t.Context(), -1, 100, time.Now()); !ok { // A body of unknown length counts as one of the largest.
						t.Fatal("there was no memory at the start")
					}
				}
				release, _ := s.reserve(t.Context(), 99, 100, time.Now())
				time.AfterFunc(test.freeAfter, release)
				start := time.Now()
				if free, ok := s.reserve(t.Context(), 2, 100, start.Add(test.deadline)); ok != test.ok {
					t.Errorf("got memory: %t, want %t", ok, test.ok)
				} else if ok {
					free()
				}
				if took := time.Since(start); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				if _, ok := s.reserve(t.Context(), 1, 100, start); !ok {
					t.Error("a small body that fits has to wait for a large one")
				}
				time.Sleep(3 * time.Second)
			})
		})
	}
}
