package mutate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
)

// TestManyUnknownAnnotations: the nearest known key is searched for what a message has room for, and not for each of the tens of
// thousands of keys that fit into a Pod, which would take longer than the API server waits for the webhook.
func TestManyUnknownAnnotations(t *testing.T) {
	annotations := map[string]string{}
	for i := range 2 * maxListed {
		annotations[fmt.Sprintf("podtoken.dev/audiance.t%02d", i)] = "vault"
	}
	_, problems := parse(annotations, parsedConfig(t, defaultConfig))
	if len(problems) != 2*maxListed {
		t.Fatalf("%d problems, want %d", len(problems), 2*maxListed)
	}
	for i, problem := range problems {
		if problem.reason != api.ReasonUnknownAnnotation || (i < maxListed) != strings.Contains(problem.text, "did you mean podtoken.dev/audience.t") {
			t.Errorf("problem %d: %+v", i, problem)
		}
	}
	message := deny(problems).Message
	if !strings.HasPrefix(message, "podtoken: 20 problems: (1) podtoken.dev/audiance.t00 is not a known annotation: ") || !strings.HasSuffix(message, "; and 10 more") {
		t.Errorf("message: %s", message)
	}
}
