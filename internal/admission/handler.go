package admission

import (
	"cmp"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/podtoken/podtoken/internal/httpserver"
	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/internal/sparselog"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/jsonread"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// DefaultMaxRequestBytes is more than any pod that the API server accepts can need: it reads bodies up to 3 MiB
// (MaxRequestBodyBytes in k8s.io/apiserver@v0.37.2/pkg/server/config.go), and the review adds the user, the options,
// defaults and managed fields to the pod.
const DefaultMaxRequestBytes = 4 << 20

// DefaultMaxDuration bounds a review whose client sent no timeout, or a longer one.
const DefaultMaxDuration = 10 * time.Second

// defaultServiceAccount is that of a pod that names none; the API server fills it in before or after webhooks.
const defaultServiceAccount = "default"

// Config is what a Handler is made of. All fields are needed.
type Config struct {
	// Rules returns the configuration to decide with; never nil.
	Rules func() *mutate.Config
	// Policy returns what the installation allows; never nil.
	Policy func() *policy.Policy
	// APIServerAudiences returns the audiences that the API server itself accepts.
	APIServerAudiences func() []string
	// Version of the webhook, for the pod's status annotation.
	Version string
	Metrics *Metrics
	Logger  *slog.Logger
	// MaxRequestBytes is the largest body that is read.
	MaxRequestBytes int64
	// MaxInFlight is how many reviews are worked on at once; bodies take four times MaxRequestBytes together. What is more
	// is refused, see shedder.
	MaxInFlight int
	// MaxDuration is the longest that one review may take, reading its body included.
	MaxDuration time.Duration
}

// Handler answers AdmissionReviews.
type Handler struct {
	config  Config
	mutate  func(mutate.Input) mutate.Result
	shedder *shedder
	buffers bufferPool
	// strangers is the log of requests that are no AdmissionReviews, or were not read. Any client that reaches the port can send them.
	strangers *sparselog.Logger
}

// NewHandler returns a Handler.
func NewHandler(config Config) *Handler {
	return &Handler{
		config: config, mutate: mutate.Mutate, shedder: newShedder(config.MaxInFlight, config.MaxRequestBytes),
		strangers: sparselog.New(config.Logger),
	}
}

// ServeHTTP answers one review. What it sends:
//
//	HTTP  allowed  code  outcome    reason     when, and what the text says
//	----  -------  ----  ---------  ---------  -----------------------------------------------------------------
//	200   true     -     Injected   *          the patch; warnings
//	200   true     -     Unchanged  *          second call for the same pod; warnings
//	200   true     -     Skipped    NotAPod    not a pod, or a subresource of one: an edited webhook configuration
//	200   true     -     Skipped    *          nothing to do
//	200   false    403   Denied     *          the pod's annotations; mutate's message
//	200   false    403   Denied     *          NotAllowed, LimitExceeded: the installation's policy; its message
//	200   false    400   Error      Malformed  a pod that does not decode, or without object or namespace
//	200   false    500   Error      Internal   a panic, after the review's uid was known; no configuration or policy
//	400   -        -     Error      Malformed  not JSON, not an AdmissionReview admission.k8s.io/v1, or no uid
//	405   -        -     Error      Malformed  not a POST
//	408   -        -     Error      Deadline   the body did not arrive within two seconds, or its time was over before
//	413   -        -     Error      TooLarge   the body is larger than --max-request-bytes
//	415   -        -     Error      Malformed  the content type is not application/json
//	429   -        -     Error      Overloaded more reviews at once than --max-in-flight, or no memory for its body within a second
//	500   -        -     Error      Internal   a panic before that
//	503   -        -     Error      Deadline   the body arrived, but its time was over before the decision
//
// Whatever can be answered as a review is: then the pod's author sees the text, and the pod is refused whatever the
// webhook configuration's failurePolicy says, so that no pod starts without the tokens it asked for because of an error. For the
// HTTP errors the API server shows a text of its own, and failurePolicy decides.
//
// A denial has code 403, as those of most webhooks: client-go's IsForbidden holds, and clients do not take the pod for
// one that the API server found invalid. Its reason is ours, not "Forbidden", because kubectl prints it and "Forbidden"
// reads as missing permissions:
//
//	Error from server (InvalidValue): admission webhook "..." denied the request: podtoken: annotation ...
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	h.config.Metrics.inFlight.Inc()
	defer h.config.Metrics.inFlight.Dec()

	deadline := start.Add(timeBudget(r.URL, h.config.MaxDuration))
	setReadDeadline(w, earlier(deadline, start.Add(bodyTimeout)))
	held := h.shedder.newHolding(func() {
		setReadDeadline(w, start)
		setWriteDeadline(w, start)
	})
	defer held.release()

	v := h.decideRequest(w, r, held, deadline)
	if v.httpStatus == http.StatusOK {
		httpserver.Delivered(r.Context())
	} else {
		// No API server sends what is answered so, but for more than we can take: then it is to find another replica.
		w.Header().Set("Connection", "close")
	}
	setWriteDeadline(w, time.Now().Add(answerTimeout))
	h.send(w, v)

	duration := time.Since(start)
	h.config.Metrics.observe(v.outcome, v.reason, duration)
	h.log(r, v, duration)
}

// decideRequest checks the HTTP request, reads its body and decides, if there is room for it.
func (h *Handler) decideRequest(w http.ResponseWriter, r *http.Request, held *holding, deadline time.Time) verdict {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return httpError(http.StatusMethodNotAllowed, api.ReasonMalformed, "the method must be POST")
	}
	if !isJSON(r.Header.Get("Content-Type")) {
		return httpError(http.StatusUnsupportedMediaType, api.ReasonMalformed, "the content type must be application/json")
	}
	body, err := h.readBody(w, r, held, deadline)
	if err != nil {
		if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return httpError(http.StatusRequestEntityTooLarge, api.ReasonTooLarge,
				"the body is larger than "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes (--max-request-bytes)")
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return httpError(http.StatusRequestTimeout, api.ReasonDeadline, "the body did not arrive in time")
		}
		if errors.Is(err, errNoMemory) {
			discard(w, r, h.config.MaxRequestBytes)
			return refuse(w)
		}
		return httpError(http.StatusBadRequest, api.ReasonMalformed, "the body could not be read")
	}
	if time.Now().After(deadline) {
		return httpError(http.StatusServiceUnavailable, api.ReasonDeadline, "the review's time was over before it could be decided")
	}
	entered := h.shedder.enter()
	defer h.shedder.leave()
	if !entered {
		return refuse(w)
	}
	return h.decide(body, r.RemoteAddr)
}

// decide reads a review from the address remote and decides. The verdict has parts of the body.
func (h *Handler) decide(body []byte, remote string) (v verdict) {
	defer func() {
		if value := recover(); value != nil {
			v = h.panicked(v.request, remote, value)
		}
	}()

	var in review
	err := jsonread.Document(body, func(r *jsonread.Reader) { in = readReview(r) })
	if syntax, ok := errors.AsType[*jsonread.SyntaxError](err); ok {
		return httpError(http.StatusBadRequest, api.ReasonMalformed, syntax.Error())
	}
	// Any other error leaves the rest of the review read.
	v.request = in.Request
	switch r := &v.request; {
	case in.Kind != reviewKind || in.APIVersion != reviewAPIVersion:
		return httpError(http.StatusBadRequest, api.ReasonMalformed,
			"the body must be an AdmissionReview of admission.k8s.io/v1: set admissionReviewVersions: [v1] in the webhook's registration")
	case r.UID == "":
		return httpError(http.StatusBadRequest, api.ReasonMalformed, "the review has no request.uid")
	case !r.isPod():
		return v.with(mutate.Result{Outcome: api.OutcomeSkipped, Reason: api.ReasonNotAPod})
	case err != nil:
		return v.malformed(err.Error())
	case r.Object == nil && r.Operation == "CREATE":
		return v.malformed("the review has no request.object")
	case r.Namespace == "":
		return v.malformed("the review has no request.namespace")
	}
	if v.request.Object == nil { // DELETE
		v.request.Object = &mutate.Pod{}
	}
	return v.with(h.decidePod(&v.request))
}

// decidePod decides about the annotations, and then whether the policy allows the tokens. That is asked too when there
// is nothing left to inject: the pod may have been written by hand, with everything in it.
func (h *Handler) decidePod(r *request) mutate.Result {
	audiences := h.config.APIServerAudiences()
	result := h.mutate(mutate.Input{
		Pod:                r.Object,
		Namespace:          r.Namespace,
		Operation:          r.Operation,
		Config:             h.config.Rules(),
		APIServerAudiences: audiences,
		Version:            h.config.Version,
	})
	if result.Outcome != api.OutcomeInjected && result.Outcome != api.OutcomeUnchanged {
		return result
	}
	allowed := h.config.Policy()
	if allowed == nil {
		return mutate.Result{Outcome: api.OutcomeError, Reason: api.ReasonInternal, Message: "the webhook has no policy"}
	}
	refusal := allowed.Check(policy.Request{
		Namespace:          r.Namespace,
		ServiceAccount:     cmp.Or(r.Object.Spec.ServiceAccountName, defaultServiceAccount),
		Tokens:             result.Tokens,
		APIServerAudiences: audiences,
	})
	if refusal != nil {
		return mutate.Result{Outcome: api.OutcomeDenied, Reason: refusal.Reason, Message: "podtoken: " + refusal.Message}
	}
	return result
}

// log writes one line per review: what changed a pod or refused it at Info, what left it alone at Debug. It has no
// values of annotations and nothing out of the pod but its name, and so no denial's message, which quotes annotations.
// Lines about requests without a review are limited; metrics count all of them.
func (h *Handler) log(r *http.Request, v verdict, duration time.Duration) {
	level, message := slog.LevelDebug, "Pod left as it is"
	switch v.outcome {
	case api.OutcomeInjected:
		level, message = slog.LevelInfo, "Pod injected"
	case api.OutcomeDenied:
		level, message = slog.LevelInfo, "Pod denied"
	case api.OutcomeError:
		level, message = slog.LevelWarn, "Review failed"
	case api.OutcomeUnchanged, api.OutcomeSkipped:
	}
	if !h.config.Logger.Enabled(r.Context(), level) {
		return
	}
	attributes := make([]slog.Attr, 0, 10)
	attributes = append(attributes, slog.String("outcome", string(v.outcome)), slog.String("reason", string(v.reason)))
	if request := &v.request; request.UID != "" {
		attributes = append(attributes, slog.String("namespace", request.Namespace))
		if request.Name != "" {
			attributes = append(attributes, slog.String("name", request.Name))
		} else if request.Object != nil {
			attributes = append(attributes, slog.String("generateName", request.Object.Metadata.GenerateName))
		}
		attributes = append(attributes, slog.String("uid", request.UID), slog.Bool("dryRun", request.DryRun))
	}
	if len(v.tokens) > 0 {
		attributes = append(attributes, slog.Any("tokens", v.tokens))
	}
	if v.problem != "" {
		attributes = append(attributes, slog.String("problem", v.problem))
	}
	// Any client that reaches the port can send an AdmissionReview, also one about a pod that is not created.
	attributes = append(attributes, slog.String("remoteAddress", r.RemoteAddr), slog.Float64("durationSeconds", duration.Seconds()))
	if v.outcome == api.OutcomeError && v.request.UID == "" {
		h.strangers.Warn(r.Context(), message, attributes...)
		return
	}
	h.config.Logger.LogAttrs(r.Context(), level, message, attributes...)
}

func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && mediaType == "application/json"
}
