package admission

import (
	"net/http"
	"strings"
	"sync"
	"testing"
)

// FuzzHandler: no body makes the handler panic, and whatever it answers is what the table above ServeHTTP has.
func FuzzHandler(f *testing.F) {
	f.Add(reviewOf(asksForVault))
	f.Add(reviewOf(asksForVault + `, "podtoken.dev/sidecar-resources": "{\"limits\":{\"cpu\":\"1\"}}"`))
	f.Add(reviewOf(asksForVault, `"object"`, `"oldObject"`))
	f.Add(string(newReview(f, "u-1", newPod(shapes["minimal"], annotated()))))
	for _, text := range []string{"", "{", "[]", "null", `"x"`, "\xff", `{"request":{"uid":1}}`, `{"request":{"object":{"spec":{"initContainers":[{"name":1}]}}}}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, body string) {
		h := newHarness(t)
		w := h.serve(newRequest(body))
		switch w.Code {
		case http.StatusOK:
			if answer := decodeAnswer(t, w.Body.Bytes()).Response; answer.Result != nil && answer.Result.Code == http.StatusInternalServerError {
				t.Errorf("panicked: %s", h.log.String())
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			if !strings.HasPrefix(w.Body.String(), "podtoken: ") {
				t.Errorf("text %q", w.Body)
			}
		default:
			t.Errorf("status %d", w.Code)
		}
	})
}

// Reviews that are answered at the same time do not get into each other's buffers.
func TestConcurrentReviews(t *testing.T) {
	h := newHarness(t)
	names := []string{"minimal", "typical", "large"}
	bodies, answers := map[string]string{}, map[string]string{}
	for _, name := range names {
		bodies[name] = string(newReview(t, "uid-of-"+name, newPod(shapes[name], annotated())))
		answers[name] = h.serve(newRequest(bodies[name])).Body.String()
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 12 {
				name := names[(i+j)%len(names)]
				if got := h.serve(newRequest(bodies[name])).Body.String(); got != answers[name] {
					t.Errorf("another answer for %s: %.200s", name, got)
				}
			}
		})
	}
	group.Wait()
	if got, want := h.counts(t)["Injected/Sidecar"], 3+8*12; got != want {
		t.Errorf("reviews = %d, want %d", got, want)
	}
}
