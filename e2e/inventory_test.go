package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/pkg/api"
)

// inventory is every object of every resource that the API server can list, by "resource.group namespace/name", with what is ours on
// it: labels, annotations and finalizers.
type inventory map[string]string

// inventory lists everything.
func (w *world) inventory(ctx context.Context) (inventory, error) {
	config := rest.CopyConfig(w.restConfig)
	config.WarningHandler = rest.NoWarnings{} // about resources that are deprecated
	reader, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	lists, err := w.client.Discovery().ServerPreferredResources()
	if err != nil {
		return nil, fmt.Errorf("asking what there is: %w", err)
	}
	all := inventory{}
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, resource := range list.APIResources {
			if !slices.Contains(resource.Verbs, "list") {
				continue
			}
			kind := group.WithResource(resource.Name)
			objects, err := reader.Resource(kind).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, fmt.Errorf("listing %s: %w", kind.GroupResource(), err)
			}
			for i := range objects.Items {
				o := &objects.Items[i]
				all[fmt.Sprintf("%s %s/%s", kind.GroupResource(), o.Namespace, o.Name)] = traces(o)
			}
		}
	}
	return all, nil
}

// traces are podtoken's labels, annotations and finalizers on an object.
func traces(o *metav1.PartialObjectMetadata) string {
	keys := slices.Concat(slices.Collect(maps.Keys(o.Labels)), slices.Collect(maps.Keys(o.Annotations)), o.Finalizers)
	keys = slices.DeleteFunc(keys, func(key string) bool { return !strings.HasPrefix(key, api.Prefix) })
	slices.Sort(keys)
	return strings.Join(keys, ", ")
}

// since is what came, changed or went after an earlier inventory.
func (now inventory) since(before inventory) []string {
	var found []string
	for object, is := range now {
		if was, there := before[object]; !there {
			found = append(found, object+" is new")
		} else if is != was {
			found = append(found, fmt.Sprintf("%s has %q, before %q", object, is, was))
		}
	}
	for object := range before {
		if _, there := now[object]; !there {
			found = append(found, object+" is gone")
		}
	}
	slices.Sort(found)
	return slices.DeleteFunc(found, byKubernetes)
}

// byKubernetes says whether Kubernetes itself wrote an object, and when it likes: what happened, what is in each namespace, and the
// signs of life of nodes.
func byKubernetes(object string) bool {
	path := strings.Fields(object)[1]
	return strings.HasPrefix(object, "events") || strings.HasPrefix(object, "leases.coordination.k8s.io kube-node-lease/") || strings.HasPrefix(object, "configmaps ") && strings.HasSuffix(path, "/kube-root-ca.crt") ||
		strings.HasPrefix(object, "serviceaccounts ") && strings.HasSuffix(path, "/default")
}

// ours is what is podtoken's by its name, its namespace or what is on it; of the tests' own namespaces only grants.
func (now inventory) ours() []string {
	var found []string
	for object, traces := range now {
		_, path, _ := strings.Cut(object, " ")
		namespace, name, _ := strings.Cut(path, "/")
		ours := strings.Contains(path, "podtoken") || traces != ""
		for _, prefix := range []string{allowedPrefix, policedPrefix, rbacPrefix, "podtoken-examples"} {
			if strings.HasPrefix(namespace, prefix) {
				ours = strings.HasPrefix(name, api.GrantPrefix)
			} else if strings.HasPrefix(name, prefix) {
				ours = false
			}
		}
		if ours {
			found = append(found, object)
		}
	}
	slices.Sort(found)
	return found
}

// leftovers complains about everything of podtoken's that an uninstallation should have taken away. Named objects may stay, and the
// namespace with what is not podtoken's.
func (w *world) leftovers(t *testing.T, stay ...string) {
	t.Helper()
	w.untilNothing(t, time.Minute, func(now inventory) []string {
		return slices.DeleteFunc(now.ours(), func(object string) bool {
			return slices.Contains(stay, object) || object == "namespaces /"+releaseNamespace || byKubernetes(object)
		})
	})
}

// untilNothing waits until nothing is left: what was deleted may take a moment to go.
func (w *world) untilNothing(t *testing.T, limit time.Duration, left func(now inventory) []string) {
	t.Helper()
	var problems []string
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Second) {
		if now, err := w.inventory(context.Background()); err != nil {
			problems = []string{err.Error()}
		} else if problems = left(now); len(problems) == 0 {
			t.Logf("%d objects were looked at", len(now))
			return
		}
		if time.Now().After(deadline) {
			break
		}
	}
	for _, problem := range problems {
		t.Errorf("after the uninstallation: %s", problem)
	}
}
