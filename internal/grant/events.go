package grant

import (
	"fmt"
	"log/slog"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Reasons of events on pods: a closed set.
const (
	// EventGrantRefused: the policy forbids a token that the pod declares.
	EventGrantRefused = "GrantRefused"
	// EventGrantConflict: somebody else's object has the name of the grant.
	EventGrantConflict = "GrantConflict"
	// EventGuardMissing: the pod waits for a grant, and the guard is missing, or not proven.
	EventGuardMissing = "GuardMissing"
)

const (
	// eventAction is what was being done.
	eventAction = "Granting"
	// maxNoteBytes is what events.k8s.io takes (k8s.io/kubernetes@v1.37.2/pkg/apis/core/validation/events.go).
	maxNoteBytes = 1024
	// maxTold is how many pods of one ServiceAccount get the same kind of news as an event. The log names all.
	maxTold = 100
)

// Recorder makes events. client-go's recorder of events.k8s.io/v1 is one.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any)
}

// tell makes an event on the pod and logs it, once for every new text.
func (r *Reconciler) tell(a *account, pod *corev1.Pod, reason, text string) {
	state := a.state(pod)
	if state.told == reason+text {
		return
	}
	first := state.told == ""
	state.told = reason + text
	r.logger.Warn("Pod has no grant", slog.String("reason", reason), slog.String("namespace", pod.Namespace),
		slog.String("pod", pod.Name), slog.String("serviceAccount", serviceAccountOf(pod)), slog.String("message", text))
	if first {
		a.told++
	}
	if a.told <= maxTold {
		r.recorder.Eventf(pod, nil, corev1.EventTypeWarning, reason, eventAction, "%s", cut("podtoken: "+text, maxNoteBytes))
	}
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

func guardText(problem string) string {
	return fmt.Sprintf("no grant yet: %s. Without this guard the ServiceAccount could mint any token. "+
		"The grant follows automatically", problem)
}

func conflictText(c *foreignError) string {
	return fmt.Sprintf("no grant: a %s %q that podtoken did not make is in the way in namespace %q. "+
		"Delete or rename it; podtoken looks again every %s", c.kind, c.name, c.namespace, conflictInterval)
}
