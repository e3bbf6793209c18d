package api

// Outcome is what an admission review ended with: a closed set, used as a metric label.
type Outcome string

// Outcomes of an admission review.
const (
	// OutcomeInjected: the answer carries a patch.
	OutcomeInjected Outcome = "Injected"
	// OutcomeUnchanged: the pod is already as it should be.
	OutcomeUnchanged Outcome = "Unchanged"
	// OutcomeSkipped: nothing of ours to do; the pod is admitted as it is.
	OutcomeSkipped Outcome = "Skipped"
	// OutcomeDenied: the pod is refused with a message for its author.
	OutcomeDenied Outcome = "Denied"
	// OutcomeError: the request itself could not be understood.
	OutcomeError Outcome = "Error"
)

// Reason tells why an Outcome was reached: a closed set, used in logs, as a metric label and in the answer's status.
type Reason string

// Reasons of OutcomeInjected and OutcomeUnchanged.
const (
	ReasonSidecar         Reason = "Sidecar"
	ReasonProjected       Reason = "Projected"
	ReasonAlreadyInjected Reason = "AlreadyInjected"
)

// Reasons of OutcomeSkipped.
const (
	ReasonNoAnnotation Reason = "NoAnnotation"
	ReasonSwitchedOff  Reason = "SwitchedOff"
	ReasonMirrorPod    Reason = "MirrorPod"
	ReasonNotCreate    Reason = "NotCreate"
	ReasonNotAPod      Reason = "NotAPod"
)

// Reasons of OutcomeDenied.
const (
	ReasonUnknownAnnotation Reason = "UnknownAnnotation"
	ReasonInvalidValue      Reason = "InvalidValue"
	ReasonNoAudience        Reason = "NoAudience"
	ReasonConflict          Reason = "Conflict"
	ReasonUnsupported       Reason = "Unsupported"
	ReasonLimitExceeded     Reason = "LimitExceeded"
	ReasonNotAllowed        Reason = "NotAllowed"
)

// Reasons of OutcomeError.
const (
	ReasonMalformed  Reason = "Malformed"
	ReasonTooLarge   Reason = "TooLarge"
	ReasonDeadline   Reason = "Deadline"
	ReasonOverloaded Reason = "Overloaded"
	ReasonInternal   Reason = "Internal"
)

// Reasons lists every Reason, in the order of this file, for documentation, metrics and tests.
func Reasons() []Reason {
	return []Reason{
		ReasonSidecar, ReasonProjected, ReasonAlreadyInjected,
		ReasonNoAnnotation, ReasonSwitchedOff, ReasonMirrorPod, ReasonNotCreate, ReasonNotAPod,
		ReasonUnknownAnnotation, ReasonInvalidValue, ReasonNoAudience, ReasonConflict, ReasonUnsupported, ReasonLimitExceeded,
		ReasonNotAllowed,
		ReasonMalformed, ReasonTooLarge, ReasonDeadline, ReasonOverloaded, ReasonInternal,
	}
}
