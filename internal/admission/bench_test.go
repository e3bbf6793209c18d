package admission

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"
)

var shapeNames = []string{"minimal", "typical", "large"}

// BenchmarkHandler measures the handler alone. "x-null" compares it, in the same run, to a handler that reads the body,
// finds the uid and sends as many bytes: the least that any webhook does. The ratio holds from one machine to another
// better than times do.
func BenchmarkHandler(b *testing.B) {
	for _, name := range shapeNames {
		b.Run(name, func(b *testing.B) {
			body, ours, null := benchmarkHandlers(b, name)
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				serveOnce(ours, body)
			}
			b.ReportMetric(ratio(func() { serveOnce(ours, body) }, func() { serveOnce(null, body) }), "x-null")
		})
	}
}

// BenchmarkServer measures the same through TLS 1.3 and HTTP/1.1 on one kept connection, as an API server calls; the
// client is in the numbers.
func BenchmarkServer(b *testing.B) {
	for _, name := range shapeNames {
		b.Run(name, func(b *testing.B) {
			body, ours, null := benchmarkHandlers(b, name)
			mux := http.NewServeMux()
			mux.Handle("/mutate", ours)
			mux.Handle("/null", null)
			server := httptest.NewTLSServer(mux)
			defer server.Close()
			call := func(path string) {
				response, err := server.Client().Post(server.URL+path, "application/json", bytes.NewReader(body))
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
			}
			for b.Loop() {
				call("/mutate?timeout=5s")
			}
			b.ReportMetric(ratio(func() { call("/mutate?timeout=5s") }, func() { call("/null") }), "x-null")
		})
	}
}

// benchmarkHandlers returns a review, our handler, and the one to compare it to.
func benchmarkHandlers(b *testing.B, name string) (body []byte, ours, null http.Handler) {
	b.Helper()
	body = newReview(b, "0b5a1c1e-95ad-4d3c-a5f8-6ee5cf9d3a3c", newPod(shapes[name], annotated()))
	h := newHarness(b)
	h.config.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil))
	answer := h.serve(newRequest(string(body))).Body.Bytes()
	if got := h.counts(b)["Injected/Sidecar"]; got != 1 {
		b.Fatalf("not injected: %s", answer)
	}
	return body, h, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held := h.shedder.newHolding(func() {})
		defer held.release()
		body, _ := h.readBody(w, r, held, time.Now().Add(time.Second))
		if bytes.Contains(body, []byte(`"uid":`)) {
			_, _ = w.Write(answer)
		}
	})
}

// ratio returns the median, over interleaved batches, of how much longer ours takes than null.
func ratio(ours, null func()) float64 {
	const batches, calls = 21, 20
	ratios := make([]float64, batches)
	for i := range ratios {
		ratios[i] = float64(timeOf(calls, ours)) / float64(timeOf(calls, null))
	}
	slices.Sort(ratios)
	return ratios[batches/2]
}

func timeOf(calls int, call func()) time.Duration {
	start := time.Now()
	for range calls {
		call()
	}
	return time.Since(start)
}

// serveOnce is the cheapest possible client.
func serveOnce(handler http.Handler, body []byte) {
	r, _ := http.NewRequest(http.MethodPost, "/mutate?timeout=5s", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	handler.ServeHTTP(&discardWriter{header: http.Header{}}, r)
}

type discardWriter struct{ header http.Header }

func (w *discardWriter) Header() http.Header         { return w.header }
func (w *discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *discardWriter) WriteHeader(int)             {}
