package mutate

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// settle decides what exactly is injected. It returns what is wrong with the container that is in the Pod already; nothing when
// there is none, or when it does what ours would do.
func (p *plan) settle() []difference {
	p.volumes = p.newVolumes()
	p.noteResources()
	var wrong []difference
	if p.req.projected {
		p.tokens = p.req.withModes("0644")
	} else {
		p.identity = p.newIdentity()
		p.tokens = p.req.withModes(p.identity.mode)
		p.sidecar = p.newSidecar(p.identity, p.sidecarResources())
		if p.own >= 0 {
			wrong = p.meet(p.pod.Spec.InitContainers[p.own].raw)
		}
	}
	p.encode()
	return wrong
}

// meet takes the container of our name as it is, unless it would not do its work: nothing that is in the Pod is ever replaced.
func (p *plan) meet(raw json.RawMessage) []difference {
	existing := new(corev1.Container)
	if err := json.Unmarshal(raw, existing); err != nil {
		return []difference{{text: fmt.Sprintf("it cannot be read: %v", err), by: byEditor}}
	}
	s := &secondCall{plan: p, got: existing, want: p.sidecar}
	s.judge()
	if len(s.wrong) > 0 {
		return s.wrong
	}
	p.notes = append(p.notes, s.warnings...)
	p.sidecar, p.tokens, p.identity.user, p.identity.group = existing, s.tokens, s.user(), s.group()
	return nil
}

// statusProblem compares the status that is in the Pod already with what the Pod has. The version is that of the webhook that injected, and the hash
// that of its encoding: both may be others.
func (p *plan) statusProblem(value string) string {
	var got api.Status
	if err := json.Unmarshal([]byte(value), &got); err != nil {
		return "it is not the webhook's JSON"
	}
	want := make([]string, 0, len(p.tokens))
	for _, t := range p.tokens {
		want = append(want, t.Name)
	}
	if !slices.Equal(got.Tokens, want) {
		return fmt.Sprintf("tokens is %s, not %s", cut(string(mustJSON(got.Tokens))), cut(string(mustJSON(want))))
	}
	return ""
}
