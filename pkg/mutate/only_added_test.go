package mutate

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// checkOnlyAdded checks that everything of the pod before is still there after, in the same order and with the same
// content, and that nothing but podtoken's own is new. Both are compared as raw JSON, so it holds for unknown fields, too.
func checkOnlyAdded(t testing.TB, before, after []byte) {
	t.Helper()
	c := &addedChecker{t: t}
	oldPod, newPod := c.decode(before), c.decode(after)

	c.same("", oldPod, newPod, "metadata", "spec")
	oldMeta, newMeta := object(oldPod["metadata"]), object(newPod["metadata"])
	c.same("metadata", oldMeta, newMeta, "labels", "annotations")
	c.keys("labels", object(oldMeta["labels"]), object(newMeta["labels"]), "podtoken.dev/injected")
	c.keys("annotations", object(oldMeta["annotations"]), object(newMeta["annotations"]),
		"podtoken.dev/status", "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes")

	oldSpec, newSpec := object(oldPod["spec"]), object(newPod["spec"])
	c.same("spec", oldSpec, newSpec, "volumes", "initContainers", "containers")
	c.prefix("volumes", array(oldSpec["volumes"]), array(newSpec["volumes"]), "podtoken", "podtoken-api")
	c.containers("containers", array(oldSpec["containers"]), array(newSpec["containers"]))
	oldOwn, oldInit := split(array(oldSpec["initContainers"]))
	newOwn, newInit := split(array(newSpec["initContainers"]))
	c.containers("initContainers", oldInit, newInit)
	if oldOwn != nil && !reflect.DeepEqual(oldOwn, newOwn) {
		t.Errorf("podtoken's own container was changed: %v, was %v", newOwn, oldOwn)
	}
}

type addedChecker struct{ t testing.TB }

func (c *addedChecker) decode(data []byte) map[string]any {
	c.t.Helper()
	var decoded map[string]any
	if err := json.Unmarshal(data, &decoded); err != nil {
		c.t.Fatalf("decoding pod: %v", err)
	}
	return decoded
}

// same compares all fields but the excepted ones.
func (c *addedChecker) same(where string, before, after map[string]any, except ...string) {
	c.t.Helper()
	for _, fields := range []map[string]any{before, after} {
		for field := range fields {
			if !slices.Contains(except, field) && !reflect.DeepEqual(before[field], after[field]) {
				c.t.Errorf("%s.%s is %v, was %v", where, field, after[field], before[field])
			}
		}
	}
}

// keys allows new keys of the given names; a value that is there already may only grow at its end.
func (c *addedChecker) keys(where string, before, after map[string]any, allowed ...string) {
	c.t.Helper()
	for key, old := range before {
		grown, _ := after[key].(string)
		text, _ := old.(string)
		if !reflect.DeepEqual(old, after[key]) && !(slices.Contains(allowed, key) && strings.HasPrefix(grown, text)) {
			c.t.Errorf("%s: %s is %v, was %v", where, key, after[key], old)
		}
	}
	for key := range after {
		if _, old := before[key]; !old && !slices.Contains(allowed, key) {
			c.t.Errorf("%s: %s is new", where, key)
		}
	}
}

// prefix wants the old elements first, and new ones of the given names only.
func (c *addedChecker) prefix(where string, before, after []any, allowed ...string) {
	c.t.Helper()
	if len(after) < len(before) || !reflect.DeepEqual(append([]any{}, before...), append([]any{}, after[:len(before)]...)) {
		c.t.Errorf("%s are %v, were %v", where, after, before)
		return
	}
	for _, element := range after[len(before):] {
		name, _ := object(element)["name"].(string)
		if !slices.Contains(allowed, name) {
			c.t.Errorf("%s: %v is new", where, element)
		}
	}
}

// suffix wants the old elements last, and new ones before them.
func (c *addedChecker) suffix(where string, before, after []any) {
	c.t.Helper()
	if added := len(after) - len(before); added < 0 || !reflect.DeepEqual(append([]any{}, before...), append([]any{}, after[added:]...)) {
		c.t.Errorf("%s are %v, were %v", where, after, before)
	}
}

func (c *addedChecker) containers(where string, before, after []any) {
	c.t.Helper()
	if len(before) != len(after) {
		c.t.Errorf("there are %d %s, there were %d", len(after), where, len(before))
		return
	}
	for i := range before {
		was, is := object(before[i]), object(after[i])
		c.same(where, was, is, "env", "volumeMounts")
		c.suffix(where+": env", array(was["env"]), array(is["env"]))
		c.prefix(where+": volumeMounts", array(was["volumeMounts"]), array(is["volumeMounts"]), "podtoken")
	}
}

// split takes podtoken's own container out of the init containers.
func split(containers []any) (own any, others []any) {
	for _, container := range containers {
		if own == nil && object(container)["name"] == "podtoken" {
			own = container
		} else {
			others = append(others, container)
		}
	}
	return own, others
}

func object(value any) map[string]any {
	decoded, _ := value.(map[string]any)
	return decoded
}

func array(value any) []any {
	decoded, _ := value.([]any)
	return decoded
}
