package sidecar

import (
	"container/heap"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
)

// herd is many pods with one token each, driven by the real schedule, and one API server. Only the clock, the network and
// the disk are left out, so that hours of ten thousand pods take a second.
type herd struct {
	random *rand.Rand
	queue  podQueue
	down   func(at time.Duration) bool
	// served, by time, are the requests that reached the server, and failed those that did not.
	served, failed []time.Duration
	expired        int
}

type herdPod struct {
	token *token
	phase float64
	next  time.Duration
}

type podQueue []*herdPod

func (q podQueue) Len() int           { return len(q) }
func (q podQueue) Less(i, j int) bool { return q[i].next < q[j].next }
func (q podQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *podQueue) Push(x any)        { *q = append(*q, x.(*herdPod)) }
func (q *podQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

func at(d time.Duration) instant { return instant{d, time.Unix(1790000000, 0).Add(d)} }

func newHerd(seed uint64, pods int, start func(random *rand.Rand) time.Duration) *herd {
	h := &herd{random: rand.New(rand.NewPCG(seed, 4)), down: func(time.Duration) bool { return false }}
	for range pods {
		pod := &herdPod{token: newToken(api.TokenSpec{Name: "vault", RefreshAtPercent: 80}, 0o400), phase: h.random.Float64(), next: start(h.random)}
		pod.token.cause = CauseMissing
		h.queue = append(h.queue, pod)
	}
	heap.Init(&h.queue)
	return h
}

func (h *herd) run(until, lifetime time.Duration) {
	for h.queue[0].next < until {
		pod := h.queue[0]
		t, now := pod.token, at(pod.next)
		if t.exists && t.left(now) <= 0 {
			h.expired++
		}
		if h.down(pod.next) {
			h.failed = append(h.failed, pod.next)
			t.retry(now, &Error{Class: ClassNetwork}, h.random.Float64())
		} else {
			h.served = append(h.served, pod.next)
			t.succeed(now, lifetime, h.random.Float64(), pod.phase)
		}
		pod.next += t.after
		heap.Fix(&h.queue, 0)
	}
}

// curve is the rate per bucket between two times.
func curve(times []time.Duration, from, to, bucket time.Duration) []float64 {
	rates := make([]float64, int((to-from)/bucket))
	for _, one := range times {
		if one >= from && one < from+time.Duration(len(rates))*bucket {
			rates[int((one-from)/bucket)] += 1 / bucket.Seconds()
		}
	}
	return rates
}

func mean(rates []float64) (sum float64) {
	for _, rate := range rates {
		sum += rate / float64(len(rates))
	}
	return sum
}

// Ten thousand pods of one deployment start within a minute, and some hours later nobody can reach the API server for five
// minutes. Neither makes them come together: the API server never sees twice the mean of a quiet day, but for the starts,
// also if it is there all the time and answers with errors.
func TestHerd(t *testing.T) {
	const (
		pods     = 10000
		bucket   = time.Minute
		outage   = 4 * time.Hour
		back     = outage + 5*time.Minute
		lifetime = time.Hour
	)
	// The steady state is that of pods that started at any time, long ago.
	quiet := newHerd(1, pods, func(random *rand.Rand) time.Duration { return time.Duration(random.Float64() * float64(lifetime)) })
	quiet.run(50*time.Hour, lifetime)
	steady := mean(curve(quiet.served, 10*time.Hour, 50*time.Hour, bucket))

	h := newHerd(2, pods, func(random *rand.Rand) time.Duration { return time.Duration(random.Float64() * float64(time.Minute)) })
	h.down = func(at time.Duration) bool { return at >= outage && at < back }
	h.run(8*time.Hour, lifetime)
	rates, failures := curve(h.served, 0, 8*time.Hour, bucket), curve(h.failed, 0, 8*time.Hour, bucket)
	t.Logf("mean of the steady state: %.2f requests/s; one line per %s, '#' is a tenth of the mean, '-' in the outage", steady, bucket)
	highest, bound := 0.0, 2*steady
	for i, rate := range rates {
		from, mark := time.Duration(i)*bucket, "#"
		if failures[i] > 0 {
			rate, mark = rate+failures[i], "-"
		}
		t.Logf("%8s %6.2f/s %s", from, rate, strings.Repeat(mark, min(int(rate/steady*10), 100)))
		if from < time.Minute {
			continue // the starts themselves
		}
		if highest = max(highest, rate); rate >= bound {
			t.Errorf("%.2f requests/s after %s, the bound is %.2f", rate, from, bound)
		}
	}
	t.Logf("highest rate: %.2f of the mean", highest/steady)
	if h.expired > 0 {
		t.Errorf("%d tokens expired", h.expired)
	}
	if len(h.failed) == 0 {
		t.Error("there was no outage")
	}
}

// After an outage that is longer than what is left of every token, each pod is in a hurry, and all have theirs within
// seconds; their next refreshes are apart again.
func TestHerdAfterAnOutageThatOutlivesTheTokens(t *testing.T) {
	const pods, outage, back, lifetime = 2000, 3 * time.Hour, 5 * time.Hour, time.Hour
	h := newHerd(3, pods, func(random *rand.Rand) time.Duration { return time.Duration(random.Float64() * float64(lifetime)) })
	h.down = func(at time.Duration) bool { return at >= outage && at < back }
	h.run(back+3*time.Hour, lifetime)
	first := curve(h.served, back, back+20*time.Second, 20*time.Second)[0] * 20
	if first < pods-1 {
		t.Errorf("%.0f of %d pods had a token within 20 s", first, pods)
	}
	after := curve(h.served, back+time.Minute, back+3*time.Hour, 5*time.Minute)
	for i, rate := range after {
		if rate > 2*mean(after) {
			t.Errorf("%.2f requests/s, %d minutes after the outage; the mean is %.2f", rate, 5*i, mean(after))
		}
	}
}
