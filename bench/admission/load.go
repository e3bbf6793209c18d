package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podtoken/podtoken/bench/report"
)

// load is what a server answered.
type load struct {
	// answered and refused are requests with status 200, and with status 429; failed have no answer within the webhook's
	// timeout, or none at all.
	answered, refused, failed int64
	// latencies of both kinds, in milliseconds.
	answerTimes, refusalTimes report.Sample
}

// keptConnections is how many idle connections an API server keeps for a webhook: client-go's default
// (k8s.io/client-go@v0.37.2/transport/cache.go, idleConnsPerHost).
const keptConnections = 25

// webhookTimeout is that of an API server for a webhook, unless its registration says otherwise.
const webhookTimeout = 10 * time.Second

// retryAfter is how long API servers wait after status 429 before they ask again; so says the header.
const retryAfter = time.Second

// newClient calls as API servers call webhooks behind a Service: HTTP/1.1, TLS 1.3, kept connections.
func newClient(kept int) *http.Client {
	return &http.Client{
		Timeout: webhookTimeout,
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // a certificate of a minute ago, on the loopback interface
			MaxIdleConnsPerHost: kept,
		},
	}
}

// call sends the review from so many callers at once, each as soon as its last was answered, for a time. Anything but a
// review that allows the pod, with a patch if one is wanted, is an error, but for refusals with status 429. The first error
// ends it, unless failures are what is measured.
func call(ctx context.Context, c *contestant, body []byte, wantPatch bool, callers int, turn time.Duration, mayFail bool) (load, error) {
	var (
		total  load
		mu     sync.Mutex
		group  sync.WaitGroup
		failed atomic.Pointer[error]
	)
	end := time.Now().Add(turn)
	for range callers {
		group.Go(func() {
			var own load
			for time.Now().Before(end) && ctx.Err() == nil && failed.Load() == nil {
				start := time.Now()
				status, err := callOnce(ctx, c, body, wantPatch)
				took := float64(time.Since(start).Microseconds()) / 1000
				switch {
				case err != nil && mayFail:
					own.failed++
				case err != nil:
					failed.Store(&err)
				case status == http.StatusTooManyRequests:
					own.refused++
					own.refusalTimes = append(own.refusalTimes, took)
					time.Sleep(retryAfter)
				default:
					own.answered++
					own.answerTimes = append(own.answerTimes, took)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(own)
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return total, *err
	}
	return total, ctx.Err()
}

func (l *load) add(other load) {
	l.answered += other.answered
	l.refused += other.refused
	l.failed += other.failed
	l.answerTimes = append(l.answerTimes, other.answerTimes...)
	l.refusalTimes = append(l.refusalTimes, other.refusalTimes...)
}

func callOnce(ctx context.Context, c *contestant, body []byte, wantPatch bool) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.client.Do(request)
	if err != nil {
		return 0, err
	}
	answer, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	switch {
	case err != nil:
		return 0, err
	case response.StatusCode == http.StatusTooManyRequests:
		return response.StatusCode, nil
	case response.StatusCode != http.StatusOK || !bytes.Contains(answer, []byte(`"allowed":true`)) || wantPatch != bytes.Contains(answer, []byte(`"patch":"`)):
		return 0, fmt.Errorf("%s answered %d: %.300s", c.name, response.StatusCode, answer)
	}
	return response.StatusCode, nil
}
