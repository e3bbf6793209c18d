package mutate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/api"
)

// TestMutateOutcome has a case for every row of the truth table of Mutate, and for every pair of rows whose order matters.
func TestMutateOutcome(t *testing.T) {
	const (
		plainSpec   = `"spec": {"containers": [{"name": "app"}]}`
		windowsSpec = `"spec": {"os": {"name": "windows"}, "containers": [{"name": "app"}]}`
	)
	tests := map[string]struct {
		pod       string
		operation string
		noConfig  bool
		want      string
	}{
		"row 1: no pod":           {want: "Error Malformed"},
		"row 1: no configuration": {pod: `{}`, noConfig: true, want: "Error Internal"},
		"row 2: an update is skipped, whatever the annotations are": {
			pod:       `{"metadata": {"annotations": {"podtoken.dev/wrong": ""}}, ` + plainSpec + `}`,
			operation: "UPDATE", want: "Skipped NotCreate",
		},
		"row 2: no operation is skipped": {pod: `{}`, operation: "none", want: "Skipped NotCreate"},
		"row 3: a mirror pod is skipped, whatever the annotations are": {
			pod:  `{"metadata": {"annotations": {"kubernetes.io/config.mirror": "", "podtoken.dev/wrong": ""}}, ` + plainSpec + `}`,
			want: "Skipped MirrorPod",
		},
		"row 4: an empty object": {pod: `{}`, want: "Skipped NoAnnotation"},
		"row 4: the status alone asks for nothing": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/status": "x"}}, ` + plainSpec + `}`,
			want: "Skipped NoAnnotation",
		},
		"row 4: another domain": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev.example.com/audience": "x", "podtoken.dev": "x"}}, ` + plainSpec + `}`,
			want: "Skipped NoAnnotation",
		},
		"row 5: switched off, whatever else is there, Windows too": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/inject": "false", "podtoken.dev/wrong": ""}}, ` + windowsSpec + `}`,
			want: "Skipped SwitchedOff",
		},
		"row 6: a wrong switch comes before Windows and before unknown annotations": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/inject": "", "podtoken.dev/a-wrong-one": ""}}, ` + windowsSpec + `}`,
			want: "Denied InvalidValue",
		},
		"row 7: Windows comes before other problems": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/wrong": ""}}, ` + windowsSpec + `}`,
			want: "Denied Unsupported",
		},
		"row 8: an unknown annotation comes before a wrong value": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/audience.a": "", "podtoken.dev/wrong": ""}}, ` + plainSpec + `}`,
			want: "Denied UnknownAnnotation",
		},
		"row 8: a wrong value": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/audience.a": ""}}, ` + plainSpec + `}`,
			want: "Denied InvalidValue",
		},
		"row 8: no audience": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/wait": "true"}}, ` + plainSpec + `}`,
			want: "Denied NoAudience",
		},
		"row 8: more than the installation allows": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/audience": "a", "podtoken.dev/expiration": "25h"}}, ` + plainSpec + `}`,
			want: "Denied LimitExceeded",
		},
		"row 8: a number of seconds that no duration can hold": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/audience": "a", "podtoken.dev/expiration": "9223372036854775807"}}, ` + plainSpec + `}`,
			want: "Denied LimitExceeded",
		},
		"row 9: annotations that do not fit the pod come before conflicts": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/audience": "a", "podtoken.dev/containers": "x"}}, "spec": {"containers": [{"name": "podtoken"}]}}`,
			want: "Denied InvalidValue",
		},
		"row 9: no spec": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/audience": "a"}}}`,
			want: "Denied InvalidValue",
		},
		"row 10: a container of our name": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/audience": "a"}}, "spec": {"containers": [{"name": "podtoken"}, {"name": "app"}]}}`,
			want: "Denied Conflict",
		},
		"row 10: a container of our name with fields of other types": {
			pod: `{"metadata": {"annotations": {"podtoken.dev/audience": "a"}},
				"spec": {"initContainers": [{"name": "podtoken", "image": 1}], "containers": [{"name": "app"}]}}`,
			want: "Denied Conflict",
		},
		"row 12: the sidecar": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/audience": "a"}}, ` + plainSpec + `}`,
			want: "Injected Sidecar",
		},
		"row 12: the projected volume": {
			pod:  `{"metadata": {"annotations": {"podtoken.dev/audience": "a", "podtoken.dev/delivery": "projected"}}, ` + plainSpec + `}`,
			want: "Injected Projected",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			in := Input{Operation: "CREATE", Config: parsedConfig(t, defaultConfig), Version: "v0.1.0"}
			if test.pod != "" {
				in.Pod = decodePod(t, []byte(test.pod))
			}
			if test.operation != "" {
				in.Operation = test.operation
			}
			if test.noConfig {
				in.Config = nil
			}
			got := Mutate(in)
			if outcome := string(got.Outcome + " " + api.Outcome(got.Reason)); outcome != test.want {
				t.Errorf("got %s (%s), want %s", outcome, got.Message, test.want)
			}
			if got.Message == "" {
				t.Error("there is no message")
			}
			if got.Outcome == "Denied" != strings.HasPrefix(got.Message, "podtoken: ") {
				t.Errorf("only denials begin with the product's name, got %q", got.Message)
			}
			if got.Outcome != "Injected" && (got.Patch != nil || len(got.Tokens) > 0) {
				t.Errorf("got the patch %s and tokens %v", got.Patch, got.Tokens)
			}
			if got.Outcome != "Injected" {
				return
			}
			// Row 11: the same pod, injected.
			in.Pod = decodePod(t, applyJSON(t, []byte(test.pod), got.Patch))
			again := Mutate(in)
			if again.Outcome != "Unchanged" || again.Reason != "AlreadyInjected" {
				t.Errorf("the second call gives %s %s (%s), want Unchanged AlreadyInjected", again.Outcome, again.Reason, again.Message)
			}
			if diff := cmp.Diff(got.Tokens, again.Tokens); diff != "" {
				t.Errorf("the second call gives other tokens (-first +second):\n%s", diff)
			}
		})
	}
}

// TestPodDecodingErrors: what is not a pod at all is an error, for the caller to answer.
func TestPodDecodingErrors(t *testing.T) {
	for name, pod := range map[string]string{
		"annotation is a number":    `{"metadata": {"annotations": {"podtoken.dev/audience": 1}}}`,
		"annotations are a list":    `{"metadata": {"annotations": []}}`,
		"containers are an object":  `{"spec": {"containers": {}}}`,
		"container is a text":       `{"spec": {"containers": ["app"]}}`,
		"init container is a text":  `{"spec": {"initContainers": ["app"]}}`,
		"environment is a text":     `{"spec": {"initContainers": [{"env": "x"}]}}`,
		"quantity is not a number":  `{"spec": {"containers": [{"resources": {"limits": {"cpu": "many"}}}]}}`,
		"user is a text":            `{"spec": {"securityContext": {"runAsUser": "root"}}}`,
		"volume's source is a text": `{"spec": {"volumes": [{"name": "podtoken", "emptyDir": "x"}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := tryDecodePod([]byte(pod)); err == nil {
				t.Error("decoding succeeded")
			}
		})
	}
}

func parsedConfig(t testing.TB, data string) *Config {
	t.Helper()
	cfg, err := ParseConfig([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}
