package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Pods that are older than those of a Deployment fill its namespace with declarations. After a restart, when pods and Roles are
// read at the same time, its grant is what it was.
func TestGrantsStayInAFullNamespace(t *testing.T) {
	f := newGuarded(t)
	f.add(t, "pods", podYAML("shop", "cart-1", "cart", "vault", 3600))
	p := start(t, f, "--removal-delay=0s")
	eventually(t, "RoleBinding", time.Minute, func() bool { return f.get("rolebindings", "shop/podtoken:cart") != "" })
	p.stop(t)
	ofCart := func() []string {
		return slices.DeleteFunc(f.changes("roles", "rolebindings"), func(change string) bool { return !strings.HasSuffix(change, ":cart") })
	}
	before := ofCart()

	f.add(t, "serviceaccounts", serviceAccountYAML("shop", "evil"))
	f.addMany(t, "pods", strings.ReplaceAll(podYAML("shop", "", "evil", "vault", 3600), padding, ""), 400, func(i int, o fakeObject) {
		var args []any
		for k := range 16 {
			args = append(args, fmt.Sprintf(`--token={"name":"%04d-%02d-%s","audiences":["vault"],"expirationSeconds":3600,"path":"t","mode":"0400","refreshAtPercent":80}`,
				i, k, strings.Repeat("n", 120)))
		}
		o.metadata()["name"], o.metadata()["creationTimestamp"] = fmt.Sprintf("a-%04d", i), "2020-01-01T00:00:00Z"
		containers := o["spec"].(map[string]any)["initContainers"].([]any)
		sidecar := maps.Clone(containers[0].(map[string]any))
		sidecar["args"] = args
		o["spec"].(map[string]any)["initContainers"] = []any{sidecar}
	})
	p = start(t, f, "--removal-delay=0s")
	eventually(t, "the namespace is full", time.Minute, func() bool {
		refused := p.metric("podtoken_grant_refused_pods")
		return refused != "" && refused != "0"
	})
	eventually(t, "the other grant", time.Minute, func() bool { return f.get("rolebindings", "shop/podtoken:evil") != "" })
	if diff := cmp.Diff(before, ofCart()); diff != "" {
		t.Errorf("changes of the grant (-before the restart +now):\n%s", diff)
	}
	if got := len(f.names("roles")); got != 2 {
		t.Errorf("%d Roles, want 2", got)
	}
}
