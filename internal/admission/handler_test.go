package admission

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/mutate"
)

// One row per row of the table above ServeHTTP, and the ways to get there.
func TestServeHTTP(t *testing.T) {
	type want struct {
		HTTP    int
		Allowed bool
		Code    int
		Count   string // outcome/reason
		Message string // part of the message or of the HTTP error
	}
	post := func(body string) func() *http.Request { return func() *http.Request { return newRequest(body) } }
	header := func(key, value string) func() *http.Request {
		return func() *http.Request {
			r := newRequest(reviewOf(asksForVault))
			r.Header.Set(key, value)
			return r
		}
	}
	tests := map[string]struct {
		request func() *http.Request
		handler func(*Handler)
		want    want
	}{
		"a pod that asks is injected": {
			request: post(reviewOf(asksForVault)),
			want:    want{200, true, 0, "Injected/Sidecar", ""},
		},
		"a pod that asks for a projected volume is injected": {
			request: post(reviewOf(asksForVault + `, "podtoken.dev/delivery": "projected"`)),
			want:    want{200, true, 0, "Injected/Projected", ""},
		},
		"a content type with a charset is fine": {
			request: header("Content-Type", "application/json; charset=utf-8"),
			want:    want{200, true, 0, "Injected/Sidecar", ""},
		},
		"a pod without our annotations is skipped": {
			request: post(reviewOf(`"other": "x"`)),
			want:    want{200, true, 0, "Skipped/NoAnnotation", ""},
		},
		"a pod that switched injection off is skipped": {
			request: post(reviewOf(asksForVault + `, "podtoken.dev/inject": "false"`)),
			want:    want{200, true, 0, "Skipped/SwitchedOff", ""},
		},
		"a deletion, which has no object, is skipped": {
			request: post(reviewOf(asksForVault, `"CREATE"`, `"DELETE"`, `"object"`, `"oldObject"`)),
			want:    want{200, true, 0, "Skipped/NotCreate", ""},
		},
		"another resource is skipped": {
			request: post(reviewOf(asksForVault, `"resource": "pods"`, `"resource": "configmaps"`)),
			want:    want{200, true, 0, "Skipped/NotAPod", ""},
		},
		"another resource of quite another shape is skipped": {
			request: post(reviewOf(asksForVault, `"resource": "pods"`, `"resource": "configmaps"`, `"spec": {`, `"spec": [], "x": {`)),
			want:    want{200, true, 0, "Skipped/NotAPod", ""},
		},
		"another kind is skipped": {
			request: post(reviewOf(asksForVault, `"kind": "Pod"`, `"kind": "Binding"`)),
			want:    want{200, true, 0, "Skipped/NotAPod", ""},
		},
		"another version of pods is skipped": {
			request: post(reviewOf(asksForVault, `"version": "v1"`, `"version": "v2"`)),
			want:    want{200, true, 0, "Skipped/NotAPod", ""},
		},
		"a subresource is skipped": {
			request: post(reviewOf(asksForVault, `"namespace"`, `"subResource": "ephemeralcontainers", "namespace"`)),
			want:    want{200, true, 0, "Skipped/NotAPod", ""},
		},
		"a bad value is denied": {
			request: post(reviewOf(asksForVault + `, "podtoken.dev/expiration": "1s"`)),
			want:    want{200, false, 403, "Denied/InvalidValue", "podtoken: "},
		},
		"an unknown annotation is denied": {
			request: post(reviewOf(`"podtoken.dev/audiences.vault": "vault"`)),
			want:    want{200, false, 403, "Denied/UnknownAnnotation", "podtoken: "},
		},
		"an audience that the policy does not allow is denied": {
			request: post(reviewOf(`"podtoken.dev/audience.a": "vault, other", "podtoken.dev/audience.b": "https://kubernetes.default.svc"`)),
			want: want{200, false, 403, "Denied/NotAllowed", `podtoken: ServiceAccount "web" in namespace "shop": ` +
				`the audiences "other" (token "a"), "https://kubernetes.default.svc" (token "b", the API server's own) are not allowed: ` +
				`the policy has rule "shops" ("vault", "billing", "https://*.example.com") for it; an administrator can add the audiences (policy.allow in the Helm chart's values)`},
		},
		"the policy judges projected volumes too": {
			request: post(reviewOf(`"podtoken.dev/audience.a": "other", "podtoken.dev/delivery": "projected"`)),
			want:    want{200, false, 403, "Denied/NotAllowed", `podtoken: ServiceAccount "web" in namespace "shop": the audience "other" (token "a") is not allowed`},
		},
		"the policy judges by the request's namespace, not by the pod's": {
			request: post(reviewOf(asksForVault, `"namespace": "shop"`, `"namespace": "other"`, `"generateName"`, `"namespace": "shop", "generateName"`)),
			want:    want{200, false, 403, "Denied/NotAllowed", `podtoken: ServiceAccount "web" in namespace "other": the audience "vault" (token "vault") is not allowed: no rule`},
		},
		"a pod that names no ServiceAccount is of the one named default": {
			request: post(reviewOf(asksForVault, `"serviceAccountName": "web"`, `"serviceAccountName": ""`)),
			want:    want{200, false, 403, "Denied/NotAllowed", `podtoken: ServiceAccount "default" in namespace "shop": `},
		},
		"an excluded namespace is denied": {
			request: post(reviewOf(asksForVault, `"namespace": "shop"`, `"namespace": "closed"`)),
			want:    want{200, false, 403, "Denied/NotAllowed", `podtoken: ServiceAccount "web" in namespace "closed": there are no tokens in this namespace`},
		},
		"in a namespace of mode rbac Roles decide": {
			request: post(reviewOf(`"podtoken.dev/audience.a": "other"`, `"namespace": "shop"`, `"namespace": "roles"`)),
			want:    want{200, true, 0, "Injected/Sidecar", ""},
		},
		"a limit of the policy below that of the configuration is a denial": {
			request: post(reviewOf(asksForVault + `, "podtoken.dev/expiration": "12h"`)),
			handler: func(h *Handler) {
				lower, _ := policy.Parse([]byte(policyText + "maxExpiration: 1h\n"))
				h.config.Policy = func() *policy.Policy { return lower }
			},
			want: want{200, false, 403, "Denied/LimitExceeded", `podtoken: ServiceAccount "web" in namespace "shop": the token "vault" has a lifetime of 43200 s, and at most 3600 s (1h) are allowed`},
		},
		"what annotations get wrong comes before the policy": {
			request: post(reviewOf(`"podtoken.dev/audience.a": "other", "podtoken.dev/expiration": "1s"`)),
			want:    want{200, false, 403, "Denied/InvalidValue", "podtoken: podtoken.dev/expiration"},
		},
		"a pod that asks for nothing is not judged": {
			request: post(reviewOf(`"other": "x"`, `"namespace": "shop"`, `"namespace": "closed"`)),
			want:    want{200, true, 0, "Skipped/NoAnnotation", ""},
		},
		"a webhook without a policy refuses": {
			request: post(reviewOf(asksForVault)),
			handler: func(h *Handler) { h.config.Policy = func() *policy.Policy { return nil } },
			want:    want{200, false, 500, "Error/Internal", "podtoken: the webhook has no policy"},
		},
		"a pod that does not decode is an error that names the field": {
			request: post(reviewOf(asksForVault, `"serviceAccountName": "web"`, `"serviceAccountName": 7`)),
			want:    want{200, false, 400, "Error/Malformed", `podtoken: field "request.object.spec.serviceAccountName" has a value that is not a string`},
		},
		"a creation without an object is an error": {
			request: post(reviewOf(asksForVault, `"object"`, `"oldObject"`)),
			want:    want{200, false, 400, "Error/Malformed", "podtoken: the review has no request.object"},
		},
		"a review without a namespace is an error": {
			request: post(reviewOf(asksForVault, `"namespace": "shop",`, ``)),
			want:    want{200, false, 400, "Error/Malformed", "podtoken: the review has no request.namespace"},
		},
		"a panic in the decision is an error": {
			request: post(reviewOf(asksForVault)),
			handler: func(h *Handler) { h.mutate = func(mutate.Input) mutate.Result { panic("boom") } },
			want:    want{200, false, 500, "Error/Internal", "podtoken: internal error"},
		},
		"a decision without what it needs is an error": {
			request: post(reviewOf(asksForVault)),
			handler: func(h *Handler) { h.config.Rules = func() *mutate.Config { return nil } },
			want:    want{200, false, 500, "Error/Internal", "podtoken: the webhook has no configuration"},
		},
		"an empty body is refused": {
			request: post(""),
			want:    want{400, false, 0, "Error/Malformed", "podtoken: invalid JSON at byte 0"},
		},
		"half a body is refused": {
			request: post(reviewOf(asksForVault)[:300]),
			want:    want{400, false, 0, "Error/Malformed", "podtoken: invalid JSON at byte 300"},
		},
		"two bodies are refused": {
			request: post(reviewOf(asksForVault) + reviewOf(asksForVault)),
			want:    want{400, false, 0, "Error/Malformed", "podtoken: invalid JSON"},
		},
		"JSON that is nested too deeply is refused": {
			request: post(strings.Repeat("[", 20000) + strings.Repeat("]", 20000)),
			want:    want{400, false, 0, "Error/Malformed", "podtoken: invalid JSON"},
		},
		"an array is refused": {
			request: post("[]"),
			want:    want{400, false, 0, "Error/Malformed", "podtoken: the body must be an AdmissionReview"},
		},
		"null is refused": {
			request: post("null"),
			want:    want{400, false, 0, "Error/Malformed", "podtoken: the body must be an AdmissionReview"},
		},
		"another version of the review is refused": {
			request: post(reviewOf(asksForVault, "admission.k8s.io/v1", "admission.k8s.io/v1beta1")),
			want:    want{400, false, 0, "Error/Malformed", "admissionReviewVersions: [v1]"},
		},
		"another kind of body is refused": {
			request: post(reviewOf(asksForVault, `"AdmissionReview"`, `"ConversionReview"`)),
			want:    want{400, false, 0, "Error/Malformed", "podtoken: the body must be an AdmissionReview"},
		},
		"a review without uid is refused": {
			request: post(reviewOf(asksForVault, `"u-1"`, `""`)),
			want:    want{400, false, 0, "Error/Malformed", "podtoken: the review has no request.uid"},
		},
		"a review without request is refused": {
			request: post(`{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}`),
			want:    want{400, false, 0, "Error/Malformed", "podtoken: the review has no request.uid"},
		},
		"a body that breaks off is refused": {
			request: func() *http.Request {
				r := newRequest("")
				r.ContentLength, r.Body = -1, io.NopCloser(io.MultiReader(strings.NewReader("{"), errorReader{}))
				return r
			},
			want: want{400, false, 0, "Error/Malformed", "podtoken: the body could not be read"},
		},
		"a GET is refused": {
			request: func() *http.Request { return httptest.NewRequest(http.MethodGet, "/mutate", nil) },
			want:    want{405, false, 0, "Error/Malformed", "podtoken: the method must be POST"},
		},
		"an announced body that is too large is refused": {
			request: post(reviewOf(asksForVault)),
			handler: func(h *Handler) { h.config.MaxRequestBytes = 100 },
			want:    want{413, false, 0, "Error/TooLarge", "podtoken: the body is larger than 100 bytes (--max-request-bytes)"},
		},
		"a streamed body that is too large is refused": {
			request: func() *http.Request {
				r := newRequest(reviewOf(asksForVault))
				r.ContentLength = -1
				return r
			},
			handler: func(h *Handler) { h.config.MaxRequestBytes = 100 },
			want:    want{413, false, 0, "Error/TooLarge", "podtoken: the body is larger than 100 bytes (--max-request-bytes)"},
		},
		"a body of exactly the limit is fine": {
			request: post(reviewOf(asksForVault)),
			handler: func(h *Handler) { h.config.MaxRequestBytes = int64(len(reviewOf(asksForVault))) },
			want:    want{200, true, 0, "Injected/Sidecar", ""},
		},
		"another content type is refused": {
			request: header("Content-Type", "application/yaml"),
			want:    want{415, false, 0, "Error/Malformed", "podtoken: the content type must be application/json"},
		},
		"a review whose time is over is refused": {
			request: post(reviewOf(asksForVault)),
			handler: func(h *Handler) { h.config.MaxDuration = time.Nanosecond },
			want:    want{503, false, 0, "Error/Deadline", "podtoken: the review's time was over"},
		},
		"a review beyond those that are worked on is refused": {
			request: post(reviewOf(asksForVault)),
			handler: func(h *Handler) { h.shedder = newShedder(0, DefaultMaxRequestBytes) },
			want:    want{429, false, 0, "Error/Overloaded", "podtoken: too many reviews at once"},
		},
		"a panic before the decision is an error": {
			request: post(reviewOf(asksForVault)),
			handler: func(h *Handler) { h.config.Rules = func() *mutate.Config { panic("boom") } },
			want:    want{200, false, 500, "Error/Internal", "podtoken: internal error"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			if test.handler != nil {
				test.handler(h.Handler)
			}
			w := h.serve(test.request())

			got := want{HTTP: w.Code, Message: w.Body.String()}
			if w.Code == http.StatusOK {
				r := decodeAnswer(t, w.Body.Bytes()).Response
				got.Allowed, got.Message = r.Allowed, ""
				if r.Result != nil {
					got.Code, got.Message = int(r.Result.Code), r.Result.Message
				}
			}
			for count, n := range h.counts(t) {
				got.Count += strings.Repeat(count, n)
			}
			if strings.Contains(got.Message, test.want.Message) {
				got.Message = test.want.Message
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnswerText(t *testing.T) {
	tests := map[string]struct{ annotations, want string }{
		"skipped": {
			annotations: ``,
			want: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u-1","allowed":true,` +
				`"auditAnnotations":{"outcome":"Skipped","reason":"NoAnnotation"}}}` + "\n",
		},
		"denied": {
			annotations: `"podtoken.dev/audience.vault": ""`,
			want: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u-1","allowed":false,` +
				`"status":{"code":403,"reason":"InvalidValue","message":"podtoken: MESSAGE"},` +
				`"auditAnnotations":{"outcome":"Denied","reason":"InvalidValue"}}}` + "\n",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			real := h.mutate
			h.mutate = func(in mutate.Input) mutate.Result {
				result := real(in)
				if result.Outcome == api.OutcomeDenied {
					result.Message = "podtoken: MESSAGE" // its text is pkg/mutate's
				}
				return result
			}
			w := h.serve(newRequest(reviewOf(test.annotations)))
			if diff := cmp.Diff(test.want, w.Body.String()); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if got, want := w.Header().Get("Content-Length"), fmt.Sprint(len(test.want)); got != want {
				t.Errorf("Content-Length = %s, want %s", got, want)
			}
		})
	}
}

// The answer carries exactly what pkg/mutate decided from the same pod.
func TestAnswerCarriesTheDecision(t *testing.T) {
	h := newHarness(t)
	var decided mutate.Result
	real := h.mutate
	h.mutate = func(in mutate.Input) mutate.Result {
		decided = real(in)
		decided.Warnings = append(decided.Warnings, "a warning")
		return decided
	}
	pod := newPod(shapes["typical"], map[string]string{
		"podtoken.dev/audience.vault": "vault", "podtoken.dev/audience.billing": "billing",
	})
	answer := decodeAnswer(t, h.serve(newRequest(string(newReview(t, "u-2", pod)))).Body.Bytes())

	want := &admissionv1.AdmissionResponse{
		UID: "u-2", Allowed: true, Patch: decided.Patch, PatchType: new(admissionv1.PatchTypeJSONPatch),
		Warnings:         decided.Warnings,
		AuditAnnotations: map[string]string{"outcome": "Injected", "reason": "Sidecar", "tokens": "billing,vault"},
	}
	if diff := cmp.Diff(want, answer.Response); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
	if len(decided.Patch) == 0 {
		t.Error("the pod was not changed")
	}
}

// Every reason has a place in the metrics, and only there: a new one must be added to reasonsOf.
func TestReasonsOfIsComplete(t *testing.T) {
	var listed []api.Reason
	for _, outcome := range []api.Outcome{
		api.OutcomeInjected, api.OutcomeUnchanged, api.OutcomeSkipped, api.OutcomeDenied, api.OutcomeError,
	} {
		listed = append(listed, reasonsOf()[outcome]...)
	}
	if diff := cmp.Diff(api.Reasons(), listed); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}

func TestMetricsText(t *testing.T) {
	h := newHarness(t)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(h.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	checkGolden(t, "testdata/metrics.txt", w.Body.Bytes())
}

// A few bytes of a body can be a great deal of memory, and a patch: 300,000 containers in four megabytes made an answer of 112
// megabytes.
func TestManyElements(t *testing.T) {
	const container, containers = `{"name":"a"}`, `[{"name": "app", "env": [{"name": "A", "value": "b"}]}]`
	list := func(n int, element string) string { return strings.TrimSuffix(strings.Repeat(element+",", n), ",") }
	tests := map[string]struct {
		containers string
		want       string // empty: injected
	}{
		"a thousand containers":   {"[" + list(1000, container) + "]", ""},
		"one more":                {"[" + list(1001, container) + "]", `has a value that is not one with at most 1000 containers`},
		"the sidecar on top":      {"[" + list(1000, container) + `], "initContainers": [{"name": "podtoken"}` + "]", `is not what podtoken injects`},
		"three hundred thousand":  {"[" + list(300000, container) + "]", `has a value that is not within the first 20000 elements of all lists`},
		"many mounts in a few":    {"[" + list(30, `{"name":"a","volumeMounts":[`+list(1000, "{}")+"]}") + "]", `has a value that is not within the first 20000 elements of all lists`},
		"nodes of many selectors": {containers + `, "nodeSelector": {` + list(20001, `"a":""`) + "}", `has a value that is not within the first 20000 elements of all lists`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			body := reviewOf(asksForVault, containers, test.containers)
			h, request := newHarness(t), newRequest(body)
			runtime.ReadMemStats(&before)
			w := h.serve(request)
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
				t.Errorf("%d MB were allocated for a body of %d bytes", got>>20, len(body))
			}
			answer := decodeAnswer(t, w.Body.Bytes())
			if answer.Response.Allowed != (test.want == "") || test.want != "" && !strings.Contains(answer.Response.Result.Message, test.want) {
				t.Errorf("allowed %t, %v, want %q", answer.Response.Allowed, answer.Response.Result, test.want)
			}
		})
	}
}
