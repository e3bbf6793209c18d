package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

func (f *fakeAPI) watch(w http.ResponseWriter, r *http.Request, resource string) {
	if r.URL.Query().Get("sendInitialEvents") != "true" {
		fail(w, http.StatusGone) // The client lists anew, with the initial events.
		return
	}
	f.mu.Lock()
	watcher := &fakeWatcher{resource: resource, selects: selector(r), events: make(chan string, 100000)}
	kind, version := "Pod", "v1"
	for _, o := range f.objects[resource] {
		if watcher.selects(o) {
			watcher.send("ADDED", partial(r, o))
		}
		kind, version = fmt.Sprint(o["kind"]), fmt.Sprint(o["apiVersion"])
	}
	if resource != "pods" && len(f.objects[resource]) == 0 {
		kind, version = bookmarkKind(resource)
	}
	bookmark := partial(r, fakeObject{"kind": kind, "apiVersion": version, "metadata": map[string]any{
		"resourceVersion": strconv.Itoa(f.version), "annotations": map[string]any{"k8s.io/initial-events-end": "true"},
	}})
	watcher.send("BOOKMARK", bookmark)
	f.watchers[watcher] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, watcher)
	}()
	flusher := w.(http.Flusher)
	metadataOnly := strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata")
	for {
		select {
		case <-r.Context().Done():
			return
		case event := <-watcher.events:
			if metadataOnly {
				event = onlyMetadata(event)
			}
			if _, err := io.WriteString(w, event); err != nil {
				return
			}
			if len(watcher.events) == 0 {
				flusher.Flush()
			}
		}
	}
}

// onlyMetadata makes the object of an event a PartialObjectMetadata.
func onlyMetadata(event string) string {
	var e struct {
		Type   string     `json:"type"`
		Object fakeObject `json:"object"`
	}
	if err := json.Unmarshal([]byte(event), &e); err != nil {
		panic(err)
	}
	e.Object = fakeObject{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": e.Object["metadata"]}
	data, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return string(data) + "\n"
}

// bookmarkKind is the kind of a resource without objects.
func bookmarkKind(resource string) (kind, version string) {
	switch resource {
	case "roles":
		return "Role", "rbac.authorization.k8s.io/v1"
	case "rolebindings":
		return "RoleBinding", "rbac.authorization.k8s.io/v1"
	case "validatingadmissionpolicies":
		return "ValidatingAdmissionPolicy", "admissionregistration.k8s.io/v1"
	case "validatingadmissionpolicybindings":
		return "ValidatingAdmissionPolicyBinding", "admissionregistration.k8s.io/v1"
	default:
		return "ServiceAccount", "v1"
	}
}
