package admission

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/mutate"
)

// marker stands for anything that must not leave the pod; it is in every place where people put secrets.
const marker = "s3cr3t"

// podWithSecrets has marker in its environment, arguments, and other people's and our annotations.
func podWithSecrets(annotations map[string]string) *corev1.Pod {
	pod := newPod(shapes["typical"], annotations)
	pod.Annotations["example.com/password"] = marker
	pod.Labels["example.com/password"] = marker
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		c.Command, c.Args = []string{"sh", "-c", marker}, []string{"--password=" + marker}
		c.Env = append(c.Env, corev1.EnvVar{Name: "PASSWORD", Value: marker})
	}
	return pod
}

// Nothing of a pod but its name may get into the log, however the review ends.
func TestLogHasNothingOfThePod(t *testing.T) {
	good := string(newReview(t, "u-1", podWithSecrets(annotated())))
	bodies := map[string]string{
		"injected":            good,
		"skipped":             string(newReview(t, "u-1", podWithSecrets(map[string]string{}))),
		"not a pod":           strings.Replace(good, `"resource":"pods"`, `"resource":"secrets"`, 1),
		"number for a string": strings.ReplaceAll(good, `"mountPath":"/etc/shop/0"`, `"mountPath":{"`+marker+`":1}`),
		"string for a list":   strings.ReplaceAll(good, `"env":[`, `"env":"`+marker+`","x":[`),
	}
	for i, annotation := range []string{
		"notify", "expiration", "mount-path", "file-mode", "delivery", "inject", "metrics-port", "sidecar-resources", marker, "audience." + marker + "_",
	} {
		bodies[fmt.Sprintf("denied %d", i)] = string(newReview(t, "u-1", podWithSecrets(map[string]string{
			"podtoken.dev/audience.vault": "vault", "podtoken.dev/" + annotation: "http://user:" + marker + "@localhost/",
		})))
	}
	bodies["refused by the policy"] = string(newReview(t, "u-1", podWithSecrets(map[string]string{"podtoken.dev/audience.vault": marker})))
	for cut := range 20 {
		bodies[fmt.Sprintf("cut %d", cut)] = good[:len(good)*cut/20]
	}
	h := newHarness(t)
	for _, body := range bodies {
		h.serve(newRequest(body))
	}
	h.mutate = func(in mutate.Input) mutate.Result { panic(fmt.Sprint(in.Pod.Spec.Containers)) }
	h.serve(newRequest(good))

	log := h.log.String()
	if got, want := strings.Count(log, "\n"), len(bodies)+2; got != want { // a panic has a line of its own
		t.Errorf("%d lines of log, want %d", got, want)
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, marker) {
			t.Errorf("the log has something of the pod: %s", line)
		}
	}
	if counts := h.counts(t); counts["Injected/Sidecar"] != 1 || counts["Error/Internal"] != 1 || counts["Denied/NotAllowed"] != 1 || counts["Error/Malformed"] < 20 {
		t.Errorf("counts = %v: the test does not reach what it is about", counts)
	}
}

// A line of the log tells which pod, what and why.
func TestLogLine(t *testing.T) {
	tests := map[string]struct {
		body string
		want []string
	}{
		"injected": {
			body: reviewOf(asksForVault),
			want: []string{
				`"level":"INFO","msg":"Pod injected","outcome":"Injected","reason":"Sidecar"`,
				`"namespace":"shop","generateName":"web-","uid":"u-1","dryRun":false,"tokens":["vault"],"remoteAddress":"192.0.2.1:1234","durationSeconds":`,
			},
		},
		"injected with a name, dry run": {
			body: reviewOf(asksForVault, `"namespace"`, `"name": "web-0", "namespace"`, `"dryRun": false`, `"dryRun": true`),
			want: []string{`"namespace":"shop","name":"web-0","uid":"u-1","dryRun":true,`},
		},
		"denied": {
			body: reviewOf(asksForVault + `, "podtoken.dev/expiration": "1s"`),
			want: []string{`"level":"INFO","msg":"Pod denied","outcome":"Denied","reason":"InvalidValue","namespace":"shop"`},
		},
		"skipped": {
			body: reviewOf(""),
			want: []string{`"level":"DEBUG","msg":"Pod left as it is","outcome":"Skipped","reason":"NoAnnotation"`},
		},
		"failed": {
			body: "{",
			want: []string{`"level":"WARN","msg":"Review failed","outcome":"Error","reason":"Malformed","problem":"invalid JSON at byte 1","remoteAddress":"192.0.2.1:1234","durationSeconds":`},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.serve(newRequest(test.body))
			log := h.log.String()
			if strings.Count(log, "\n") != 1 || !strings.Contains(log, `"remoteAddress":"192.0.2.1:1234"`) {
				t.Errorf("want one line that names the caller, got %s", log)
			}
			for _, want := range test.want {
				if !strings.Contains(log, want) {
					t.Errorf("the log has not\n%s\nbut\n%s", want, log)
				}
			}
		})
	}
}

// A panic before the uid of the review is known cannot be answered as a review.
func TestPanicWithoutReview(t *testing.T) {
	h := newHarness(t)
	v := h.panicked(request{}, "192.0.2.1:1234", "boom")
	if v.httpStatus != http.StatusInternalServerError || v.reason != "Internal" {
		t.Errorf("verdict = %+v, want HTTP 500 and Internal", v)
	}
}

// Requests that are no reviews must not fill the log: anybody who reaches the port can send them. Reviews always have their line.
func TestLogOfStrangersIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		otherKind := reviewOf(asksForVault, `"AdmissionReview"`, `"ConversionReview"`)
		const floods = 500
		for range floods {
			h.serve(newRequest("{"))
			h.serve(newRequest(otherKind))
		}
		if got := strings.Count(h.log.String(), `"msg":"Review failed"`); got == 0 || got > 100 {
			t.Errorf("%d lines about %d requests at once that are no reviews, want a few", got, 2*floods)
		}
		for range floods {
			h.serve(newRequest(reviewOf(asksForVault, `"namespace": "shop"`, `"namespace": ""`)))
			h.serve(newRequest(reviewOf(asksForVault)))
		}
		for _, message := range []string{"Review failed", "Pod injected"} {
			lines := 0
			for line := range strings.Lines(h.log.String()) {
				if strings.Contains(line, `"msg":"`+message+`"`) && strings.Contains(line, `"uid":"u-1"`) {
					lines++
				}
			}
			if lines != floods {
				t.Errorf("%d lines %q with a uid, want all %d", lines, message, floods)
			}
		}
		time.Sleep(time.Minute)
		h.serve(newRequest("{"))
		// Every request without a review has a line or is counted in one.
		seen, leftOut := 0, 0
		for line := range strings.Lines(h.log.String()) {
			if !strings.Contains(line, `"uid"`) {
				seen++
				var counted struct{ LinesLeftOut int }
				if err := json.Unmarshal([]byte(line), &counted); err != nil {
					t.Fatal(err)
				}
				leftOut += counted.LinesLeftOut
			}
		}
		if seen+leftOut != 2*floods+1 || leftOut == 0 {
			t.Errorf("%d lines and %d left out, want %d together", seen, leftOut, 2*floods+1)
		}
		if got := h.counts(t)["Error/Malformed"]; got != 3*floods+1 {
			t.Errorf("%d reviews counted, want %d", got, 3*floods+1)
		}
	})
}
