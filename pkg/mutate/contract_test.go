package mutate

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

// checkSidecarAccepts holds the injected arguments against the parser of the sidecar, which is in another image.
func checkSidecarAccepts(t *testing.T, injected []byte) {
	t.Helper()
	var pod corev1.Pod
	if err := json.Unmarshal(injected, &pod); err != nil {
		t.Fatal(err)
	}
	if len(pod.Spec.InitContainers) == 0 || pod.Spec.InitContainers[0].Name != "podtoken" {
		return // Delivery projected.
	}
	cfg := config.Config{
		Pod: config.Pod{Namespace: "default", Name: "app", UID: "uid", ServiceAccount: "default"},
		Dir: "/var/run/secrets/podtoken.dev",
	}
	for _, arg := range pod.Spec.InitContainers[0].Args {
		flag, value, _ := strings.Cut(arg, "=")
		var err error
		switch flag {
		case "--token":
			token, parseErr := config.ParseToken(value)
			cfg.Tokens, err = append(cfg.Tokens, token), parseErr
		case "--notify":
			cfg.Notify = value
		case "--notify-signal":
			cfg.NotifySignal, err = config.ParseSignal(value)
		case "--metrics-port":
			cfg.MetricsPort, err = strconv.Atoi(value)
		default:
			t.Errorf("the sidecar does not know %s", arg)
		}
		if err != nil {
			t.Errorf("the sidecar refuses %s: %v", arg, err)
		}
	}
	if err := cfg.Validate(); err != nil {
		t.Errorf("the sidecar refuses its arguments: %v", err)
	}
}
