package e2e

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar"
)

// refused is how the API server's message begins.
const refused = `admission webhook "validate.podtoken.test" denied the request: `

// refusal is what the API server answers to a ServiceAccount that asks for its token.
type refusal struct {
	code       int32
	reason     metav1.StatusReason
	message    string
	retryAfter int32
	class      sidecar.Class
	// want is what people are shown.
	want string
}

// refusals has a row for each answer that is a class of its own, or becomes one in its own way. The name is the pod's and the
// ServiceAccount's, too.
var refusals = map[string]refusal{
	"the caller is not known": {code: http.StatusUnauthorized, reason: metav1.StatusReasonUnauthorized, message: "who are you",
		class: sidecar.ClassUnauthorized, want: "Unauthorized (HTTP 401): " + refused + "who are you"},
	"a policy refuses and quotes a token": {code: http.StatusForbidden, reason: metav1.StatusReasonForbidden, message: "not with eyJhbGciOiJSUzI1NiJ9.e30.c2ln here",
		class: sidecar.ClassForbidden, want: "Forbidden (HTTP 403): " + refused + "not with [redacted] here"},
	"the ServiceAccount is gone": {code: http.StatusNotFound, reason: metav1.StatusReasonNotFound, message: "it is gone",
		class: sidecar.ClassNotFound, want: "NotFound (HTTP 404): " + refused + "it is gone"},
	"the pod is another one by now": {code: http.StatusConflict, reason: metav1.StatusReasonConflict, message: "another uid",
		class: sidecar.ClassConfiguration, want: "Configuration (HTTP 409 Conflict): " + refused + "another uid"},
	"the request is not valid": {code: http.StatusUnprocessableEntity, reason: metav1.StatusReasonInvalid, message: "no such lifetime",
		class: sidecar.ClassConfiguration, want: "Configuration (HTTP 422 Invalid): " + refused + "no such lifetime"},
	"the API server is busy": {code: http.StatusTooManyRequests, reason: metav1.StatusReasonTooManyRequests, message: "later", retryAfter: 3,
		class: sidecar.ClassThrottled, want: "Throttled (HTTP 429 TooManyRequests): " + refused + "later"},
	"the API server asks to come back": {code: http.StatusServiceUnavailable, reason: metav1.StatusReasonServiceUnavailable, message: "in a moment", retryAfter: 3,
		class: sidecar.ClassThrottled, want: "Throttled (HTTP 503 ServiceUnavailable): " + refused + "in a moment"},
	"the API server fails": {code: http.StatusInternalServerError, reason: metav1.StatusReasonInternalError, message: "etcd is out",
		class: sidecar.ClassServer, want: "Server (HTTP 500 InternalError): " + refused + "etcd is out"},
	"the API server serves nobody": {code: http.StatusServiceUnavailable, reason: metav1.StatusReasonServiceUnavailable, message: "shutting down",
		class: sidecar.ClassServer, want: "Server (HTTP 503 ServiceUnavailable): " + refused + "shutting down"},
}

// refuser is a webhook that decides what the API server answers to each ServiceAccount; kubelets and others are left alone.
type refuser struct {
	asked atomic.Bool

	mu      sync.Mutex
	answers map[string]refusal
}

func (r *refuser) decide(_ context.Context, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	r.asked.Store(true)
	r.mu.Lock()
	answer, ok := r.answers[request.Name]
	r.mu.Unlock()
	if !ok || request.UserInfo.Username != "system:serviceaccount:"+request.Namespace+":"+request.Name {
		return nil
	}
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: answer.code, Reason: answer.reason, Message: answer.message,
		Details: &metav1.StatusDetails{RetryAfterSeconds: answer.retryAfter},
	}}
}

// allow lets a ServiceAccount have its token from now on.
func (r *refuser) allow(account string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.answers, account)
}

// Whatever the API server answers, `kubectl describe pod` and the log name the class of the failure and the API server's own words,
// no container starts without a token, and the pod recovers by itself when the API server has changed its mind.
func TestEveryFailureClassIsExplained(t *testing.T) {
	t.Parallel()
	needOwnCluster(t)
	n := newNamespace(t, nil)
	refuser := &refuser{answers: map[string]refusal{}}
	// What the API server says nothing of has tests of its own, in the file beside.
	shown := map[sidecar.Class]bool{sidecar.ClassAnswer: true, sidecar.ClassCredential: true, sidecar.ClassFile: true, sidecar.ClassNetwork: true}
	for name, row := range refusals {
		refuser.answers[slug(name)] = row
		shown[row.class] = true
	}
	for _, class := range sidecar.Classes() {
		if !shown[class] {
			t.Errorf("no test shows the class %s", class)
		}
	}
	n.validate(tokenRequests, refuser.decide)
	n.untilAsked(refuser.asked.Load)

	for name, row := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, pod := n.in(t), slug(name)
			n.account(pod)
			spec := gatedSpec()
			spec.ServiceAccountName = pod
			n.create(pod, annotations("audience.vault", "vault"), spec)
			n.explained(pod, row.class, row.want)
			refuser.allow(pod)
			allowed := time.Now()
			n.ready(pod)
			t.Logf("ready %s after the last refusal", time.Since(allowed).Round(time.Second))
		})
	}
}

// explained waits until the gate has given up, and looks where people look.
func (n *testNamespace) explained(name string, class sidecar.Class, want string) {
	n.t.Helper()
	want = `token "vault" was never written: failed N times, last: ` + want
	pod := n.until(name, "has given up waiting for its token, with a failure of class "+string(class), func(p *corev1.Pod) bool {
		s := p.Status.InitContainerStatuses
		return len(s) > 0 && s[0].LastTerminationState.Terminated != nil && strings.Contains(s[0].LastTerminationState.Terminated.Message, string(class))
	})
	last := pod.Status.InitContainerStatuses[0].LastTerminationState.Terminated
	n.t.Logf("the gate gave up after %s", last.FinishedAt.Sub(last.StartedAt.Time))
	if got := failures.ReplaceAllString(last.Message, "failed N times"); last.ExitCode != 1 || got != want {
		n.t.Errorf("the sidecar's last state is exit code %d, message\n%s\nwant 1 and\n%s", last.ExitCode, got, want)
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil {
			n.t.Errorf("container %q has started without its token", c.Name)
		}
	}

	described := n.kubectl("describe", "pod", name)
	if !strings.Contains(failures.ReplaceAllString(described, "failed N times"), want) {
		n.t.Errorf("kubectl describe pod does not show the reason:\n%s", described)
	}
	// The kubelet does not look at a pod while it waits for a gate: until it has, the pod's status may name a container as the
	// last one whose log it has removed already.
	var log string
	eventually(n.t, 3*time.Minute, "the log tells of a failure of class "+string(class), func(context.Context) (bool, error) {
		log = n.kubectl("logs", name, "-c", api.ContainerName, "--previous")
		return strings.Contains(log, `"errorClass":"`+string(class)+`"`), errors.New(log)
	})
	// Between two attempts; while there is one, it is "Init:0/1".
	var listed string
	eventually(n.t, 3*time.Minute, "kubectl get pods shows the failure", func(context.Context) (bool, error) {
		listed = n.kubectl("get", "pods", name)
		return strings.Contains(listed, "Init:PostStartHookError") || strings.Contains(listed, "Init:CrashLoopBackOff"), errors.New(listed)
	})
	for _, text := range []string{described, log, listed, n.kubectl("get", "events", "-o", "yaml"), n.kubectl("get", "pod", name, "-o", "yaml")} {
		if strings.Contains(text, "eyJ") {
			n.t.Errorf("a token is shown:\n%s", text)
		}
	}
}

// failures is what a message says of how often a token was asked for, which is a matter of chance.
var failures = regexp.MustCompile(`failed [0-9]+ times`)

// kubectl returns what it prints about this namespace.
func (n *testNamespace) kubectl(arguments ...string) string {
	n.t.Helper()
	out, err := n.cluster.Kubectl(n.t.Context(), nil, append([]string{"-n", n.name}, arguments...)...)
	must(n.t, err, "running kubectl %q", arguments)
	return out
}
