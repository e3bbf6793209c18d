package grant

import (
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Reasons of events on pods: a closed set.
const (
	// EventGrantRefused: the policy forbids a token that the pod declares.
	EventGrantRefused = "GrantRefused"
	// EventGrantConflict: a foreign object has the name of the grant.
	EventGrantConflict = "GrantConflict"
	// EventGrantFailed: the API server refuses the grant for good.
	EventGrantFailed = "GrantFailed"
	// EventGuardMissing: the pod waits for a grant, and the guard is missing, or not proven.
	EventGuardMissing = "GuardMissing"
)

const (
	// eventAction is what was being done.
	eventAction = "Granting"
	// maxNoteBytes is what events.k8s.io takes (k8s.io/kubernetes@v1.37.2/pkg/apis/core/validation/events.go).
	maxNoteBytes = 1024
	// maxTold is how many pods of one ServiceAccount get the same kind of news as an event.
	maxTold = 100
	// newsBurst is how much is said in the log and by events about the pods of a namespace at once, and newsInterval after
	// what time one thing more. The metrics count all.
	newsBurst    = 300
	newsInterval = 10 * time.Second
	// maxLogged and maxLoggedBytes are how many audiences a line of the log has, and how much of each.
	maxLogged      = 16
	maxLoggedBytes = 128
)

// Recorder makes events. client-go's recorder of events.k8s.io/v1 is one.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any)
}

// tell makes an event on the pod and logs it, once for every new text.
func (r *Reconciler) tell(a *account, pod *corev1.Pod, reason, text string) {
	state := a.state(pod)
	hash := maphash.String(toldSeed, reason+text) | 1
	if state.told == hash {
		return
	}
	allowed, unsaid := r.news.allow(pod.Namespace)
	if !allowed && a.told < maxTold {
		a.later = true // Its turn comes.
		return
	}
	if state.told == 0 {
		a.told++
	}
	state.told = hash
	if !allowed {
		return
	}
	note := cut("podtoken: "+text, maxNoteBytes)
	r.logger.Warn("Pod has no grant", slog.String("reason", reason), slog.String("namespace", pod.Namespace),
		slog.String("pod", pod.Name), slog.String("serviceAccount", serviceAccountOf(pod)),
		slog.String("message", strings.TrimPrefix(note, "podtoken: ")), slog.Int("unsaid", unsaid))
	if a.told <= maxTold {
		r.recorder.Eventf(pod, nil, corev1.EventTypeWarning, reason, eventAction, "%s", note)
	}
}

// toldSeed is that of all hashes in this process.
var toldSeed = maphash.MakeSeed()

// news limits how much is said about the pods of a namespace: its pod authors make as many as they like.
type news struct {
	mu  sync.Mutex
	all map[string]*namespaceNews
}

type namespaceNews struct {
	limiter *rate.Limiter
	unsaid  int
}

// allow reports whether one more thing may be said now, and how many were not since the last one.
func (n *news) allow(namespace string) (allowed bool, unsaid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	one := n.all[namespace]
	if one == nil {
		// Those that have said nothing for long start again where they are.
		maps.DeleteFunc(n.all, func(_ string, one *namespaceNews) bool { return one.limiter.Tokens() >= newsBurst })
		if n.all == nil {
			n.all = map[string]*namespaceNews{}
		}
		one = &namespaceNews{limiter: rate.NewLimiter(rate.Every(newsInterval), newsBurst)}
		n.all[namespace] = one
	}
	if !one.limiter.Allow() {
		one.unsaid++
		return false, 0
	}
	unsaid, one.unsaid = one.unsaid, 0
	return true, unsaid
}

// cut shortens a text to a number of bytes.
func cut(text string, limit int) string {
	const mark = "..."
	if len(text) <= limit {
		return text
	}
	end := limit - len(mark)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}

// logged returns the first of a list, as far as a line of the log has room for them.
func logged(list []string) []string {
	short := make([]string, 0, min(len(list), maxLogged))
	for _, text := range list[:min(len(list), maxLogged)] {
		short = append(short, cut(text, maxLoggedBytes))
	}
	return short
}

func guardText(problem string) string {
	return fmt.Sprintf("no grant yet: %s. Without this guard the ServiceAccount could mint any token. "+
		"The grant follows automatically", problem)
}

func failedText(err error) string {
	return fmt.Sprintf("no grant: the API server does not take it: %v. podtoken tries again at least every %s", err, lastRetry)
}

func conflictText(c *foreignError) string {
	return fmt.Sprintf("no grant: a %s %q that podtoken did not make is in the way in namespace %q. "+
		"Delete or rename it; podtoken looks again every %s", c.kind, c.name, c.namespace, conflictInterval)
}
