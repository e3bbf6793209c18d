package mutate

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkEncoded checks that the container in the patch is what encoding/json would have written there: no field is missing,
// none is new, and they are in the same order.
func checkEncoded(t *testing.T, in Input) {
	t.Helper()
	req, problems := parse(in.Pod.Metadata.Annotations, in.Config)
	p, misfits := newPlan(in, req)
	if len(problems)+len(misfits)+len(p.conflicts()) > 0 || p.sidecar == nil || p.own >= 0 {
		return
	}
	var want bytes.Buffer
	encoder := json.NewEncoder(&want)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(p.sidecar); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(p.encoded.sidecar)+"\n"); diff != "" {
		t.Errorf("the container is encoded in another way (-encoding/json +ours):\n%s", diff)
	}
}
