package admission

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// verdict is what a request is answered with.
type verdict struct {
	// httpStatus is 200 when the answer is a review, and an error's status otherwise.
	httpStatus int
	outcome    api.Outcome
	reason     api.Reason
	// code of a denial.
	code int
	// message of a denial or of an HTTP error.
	message string
	// problem is message, if it may be logged.
	problem  string
	request  request
	patch    []byte
	warnings []string
	tokens   []string
}

// httpError returns the answer to a request that cannot be answered as a review.
func httpError(httpStatus int, reason api.Reason, problem string) verdict {
	return verdict{
		httpStatus: httpStatus, outcome: api.OutcomeError, reason: reason,
		message: "podtoken: " + problem, problem: problem,
	}
}

// malformed returns the answer to a review that is not about a pod we can read.
func (v verdict) malformed(problem string) verdict {
	v.httpStatus, v.outcome, v.reason = http.StatusOK, api.OutcomeError, api.ReasonMalformed
	v.code, v.message, v.problem = http.StatusBadRequest, "podtoken: "+problem, problem
	return v
}

// with returns the answer that carries a decision.
func (v verdict) with(result mutate.Result) verdict {
	v.httpStatus, v.outcome, v.reason = http.StatusOK, result.Outcome, result.Reason
	v.warnings = result.Warnings
	for i := range result.Tokens {
		v.tokens = append(v.tokens, result.Tokens[i].Name)
	}
	switch {
	case v.outcome == api.OutcomeDenied:
		v.code, v.message = http.StatusForbidden, result.Message
	case !v.allowed(): // it was called wrongly
		v.code, v.message = http.StatusInternalServerError, "podtoken: "+result.Message
	}
	v.patch = result.Patch
	return v
}

func (v *verdict) allowed() bool {
	switch v.outcome {
	case api.OutcomeInjected, api.OutcomeUnchanged, api.OutcomeSkipped:
		return true
	case api.OutcomeDenied, api.OutcomeError:
	}
	return false
}

// panicked returns the answer to a request in which something panicked.
func (h *Handler) panicked(r request, remote string, value any) verdict {
	// The value of a panic may quote the pod; runtime errors (index out of range, nil dereference) do not.
	text := fmt.Sprintf("%T", value)
	if err, ok := value.(runtime.Error); ok {
		text = err.Error()
	}
	h.config.Logger.Error("Review panicked", slog.String("uid", r.UID), slog.String("remoteAddress", remote), slog.String("panic", text), slog.String("stack", string(debug.Stack())))
	v := httpError(http.StatusInternalServerError, api.ReasonInternal, "internal error, please report it: the log of the webhook has the stack")
	if r.UID != "" {
		v.request, v.httpStatus, v.code = r, http.StatusOK, http.StatusInternalServerError
	}
	return v
}

// send writes the answer.
func (h *Handler) send(w http.ResponseWriter, v verdict) {
	if v.httpStatus != http.StatusOK {
		http.Error(w, v.message, v.httpStatus)
		return
	}
	buffer := h.buffers.get()
	defer h.buffers.put(buffer)
	*buffer = appendAnswer(*buffer, &v)
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(*buffer)))
	_, _ = w.Write(*buffer) // a client that is gone needs no answer
}
