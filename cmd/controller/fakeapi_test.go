package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// fakeAPI is an API server as far as the controller can tell: objects of any kind with lists, watches that begin with
// the objects there are, server-side apply of whole objects, and selectors. It has no authorization, and no admission but the answers
// to the controller's probes of its guards.
type fakeAPI struct {
	*httptest.Server
	mu       sync.Mutex
	version  int
	objects  map[string]map[string]fakeObject // resource, namespace/name
	watchers map[*fakeWatcher]bool
	requests map[string]int // "verb resource"
	log      []string       // of requests that change something
	// lax: the guards are not enforced, whatever objects there are.
	lax bool
	// refuse, if set, returns a status for a request instead of an answer.
	refuse func(verb, resource, key string) int
	// most is how many bytes an object may have, 0 for any number: etcd takes 1.5 MiB.
	most int
}

type fakeObject map[string]any

type fakeWatcher struct {
	resource string
	selects  func(fakeObject) bool
	events   chan string
}

func newFakeAPI(t *testing.T) *fakeAPI {
	f := &fakeAPI{
		version: 1, objects: map[string]map[string]fakeObject{}, watchers: map[*fakeWatcher]bool{}, requests: map[string]int{},
	}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

// kubeconfig writes a file that leads to the server.
func (f *fakeAPI) kubeconfig(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"x","contexts":[{"name":"x","context":{"cluster":"x","user":"x"}}],`+
		`"clusters":[{"name":"x","cluster":{"server":%q}}],"users":[{"name":"x","user":{}}]}`, f.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (o fakeObject) metadata() map[string]any {
	m, ok := o["metadata"].(map[string]any)
	if !ok {
		m = map[string]any{}
		o["metadata"] = m
	}
	return m
}

func (o fakeObject) text(field string) string {
	text, _ := o.metadata()[field].(string)
	return text
}

func (o fakeObject) labels() map[string]any {
	given := o.metadata()["labels"]
	if large, ok := given.(*encoded); ok {
		given = large.value
	}
	labels, _ := given.(map[string]any)
	return labels
}

// encoded is a value of an object that is so large that it is encoded once only.
type encoded struct {
	value any
	text  []byte
}

func (e *encoded) MarshalJSON() ([]byte, error) {
	if e.text == nil {
		text, err := json.Marshal(e.value)
		if err != nil {
			return nil, err
		}
		e.text = text
	}
	return e.text, nil
}

func (o fakeObject) key() string { return o.text("namespace") + "/" + o.text("name") }

func (o fakeObject) json() string {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// put stores an object and tells the watchers. The caller holds the lock.
func (f *fakeAPI) put(resource string, o fakeObject) {
	f.version++
	o.metadata()["resourceVersion"] = strconv.Itoa(f.version)
	if o.text("uid") == "" {
		o.metadata()["uid"] = fmt.Sprintf("uid-%d", f.version)
	}
	if f.objects[resource] == nil {
		f.objects[resource] = map[string]fakeObject{}
	}
	before, there := f.objects[resource][o.key()]
	f.objects[resource][o.key()] = o
	for w := range f.watchers {
		if w.resource != resource {
			continue
		}
		switch was, is := there && w.selects(before), w.selects(o); {
		case is && was:
			w.send("MODIFIED", o)
		case is:
			w.send("ADDED", o)
		case was:
			w.send("DELETED", o)
		}
	}
}

func (w *fakeWatcher) send(kind string, o fakeObject) {
	w.events <- fmt.Sprintf(`{"type":%q,"object":%s}`+"\n", kind, o.json())
}

// remove deletes an object and tells the watchers. The caller holds the lock.
func (f *fakeAPI) remove(resource, key string) {
	o := f.objects[resource][key]
	delete(f.objects[resource], key)
	f.version++
	o = maps.Clone(o)
	o["metadata"] = maps.Clone(o.metadata())
	o.metadata()["resourceVersion"] = strconv.Itoa(f.version)
	for w := range f.watchers {
		if w.resource == resource && w.selects(o) {
			w.send("DELETED", o)
		}
	}
}

// add stores an object written in YAML.
func (f *fakeAPI) add(t *testing.T, resource, text string) {
	t.Helper()
	f.addMany(t, resource, text, 1, func(int, fakeObject) {})
}

// addMany stores n objects that are alike: text in YAML, which takes long to parse, after a change of metadata or spec.
func (f *fakeAPI) addMany(t *testing.T, resource, text string, n int, change func(i int, o fakeObject)) {
	t.Helper()
	var pattern fakeObject
	if err := yaml.Unmarshal([]byte(text), &pattern); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range n {
		o := maps.Clone(pattern)
		for _, part := range []string{"metadata", "spec"} {
			if fields, ok := pattern[part].(map[string]any); ok {
				o[part] = maps.Clone(fields)
			}
		}
		change(i, o)
		f.put(resource, o)
	}
}

// delete removes an object.
func (f *fakeAPI) delete(resource, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(resource, key)
}

// names returns the keys of a resource's objects, sorted.
func (f *fakeAPI) names(resource string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.objects[resource]))
}

// count returns how many objects a resource has.
func (f *fakeAPI) count(resource string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.objects[resource])
}

// get returns the JSON of an object, "" if there is none.
func (f *fakeAPI) get(resource, key string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o, ok := f.objects[resource][key]; ok {
		return o.json()
	}
	return ""
}

// uid returns that of an object.
func (f *fakeAPI) uid(resource, key string) types.UID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return types.UID(f.objects[resource][key].text("uid"))
}

// changes returns the requests that change one of the resources, in their order.
func (f *fakeAPI) changes(resources ...string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for _, line := range f.log {
		if slices.Contains(resources, strings.Fields(line)[1]) {
			list = append(list, line)
		}
	}
	return list
}

// counts returns how many requests there were since the last call, by verb and resource.
func (f *fakeAPI) counts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := f.requests
	f.requests = map[string]int{}
	return counts
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// /api/v1/... or /apis/group/version/..., then namespaces/<namespace>/, then resource/name
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if parts[0] == "api" {
		parts = parts[2:]
	} else {
		parts = parts[3:]
	}
	namespace, name := "", ""
	if parts[0] == "namespaces" && len(parts) > 2 {
		namespace, parts = parts[1], parts[2:]
	}
	resource := parts[0]
	if len(parts) > 1 {
		name = parts[1]
	}
	verb := strings.ToLower(r.Method)
	if verb == "get" && name == "" {
		verb = "list"
		if r.URL.Query().Get("watch") != "" {
			verb = "watch"
		}
	}
	key := namespace + "/" + name
	f.mu.Lock()
	if r.URL.Query().Get("dryRun") != "" {
		f.requests["probe "+resource]++
	} else {
		f.requests[verb+" "+resource]++
	}
	if verb != "get" && verb != "list" && verb != "watch" && r.URL.Query().Get("dryRun") == "" {
		f.log = append(f.log, verb+" "+resource+" "+key)
	}
	refuse := f.refuse
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if refuse != nil {
		if code := refuse(verb, resource, key); code != 0 {
			fail(w, code)
			return
		}
	}
	if r.URL.Query().Get("dryRun") != "" {
		f.probed(w, resource)
		return
	}
	switch verb {
	case "watch":
		f.watch(w, r, resource)
	case "list":
		f.list(w, r, resource)
	case "patch":
		if r.Header.Get("Content-Type") == string(types.JSONPatchType) {
			f.jsonPatch(w, r, resource, key)
			return
		}
		fallthrough
	default:
		f.change(w, r, verb, resource, key)
	}
}

// probed answers a dry run, which only the controller's probes are: the token of its own, and a Role of no grant.
func (f *fakeAPI) probed(w http.ResponseWriter, resource string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	policy, there := "podtoken-controller-guard", true
	if resource == "serviceaccounts" {
		policy = "podtoken-guard"
		there = f.objects["validatingadmissionpolicies"]["/"+policy] != nil && f.objects["validatingadmissionpolicybindings"]["/"+policy] != nil
	}
	if f.lax || !there {
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"status":{"token":"`+signedToken+`"}}`)
		return
	}
	w.WriteHeader(http.StatusForbidden)
	_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":403,"reason":"Forbidden",`+
		`"message":"%s \"podtoken-controller\" is forbidden: ValidatingAdmissionPolicy '%s' with binding '%[2]s' denied request: podtoken: guard revision 2 is enforced"}`, resource, policy)
}

// signedToken is what an API server that does not enforce the guard answers a probe with.
const signedToken = "eyJhbGciOiJSUzI1NiJ9.bG9vdA.c2lnbmVk"

func fail(w http.ResponseWriter, code int) {
	reason := map[int]string{404: "NotFound", 403: "Forbidden", 409: "Conflict", 410: "Expired", 422: "Invalid", 500: "InternalError"}[code]
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":%d,"reason":%q,"message":"%s (fake)"}`, code, reason, reason)
}

// selector returns what a list or watch selects.
func selector(r *http.Request) func(fakeObject) bool {
	byLabel, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		panic(err)
	}
	byField, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		panic(err)
	}
	requirements, _ := byLabel.Requirements()
	return func(o fakeObject) bool {
		set := labels.Set{}
		given := o.labels()
		for _, requirement := range requirements { // and not of all labels, of which there may be very many
			if value, ok := given[requirement.Key()]; ok {
				set[requirement.Key()] = fmt.Sprint(value)
			}
		}
		return byLabel.Matches(set) && byField.Matches(fields.Set{"metadata.name": o.text("name")})
	}
}

// partial returns the object as it was asked for.
func partial(r *http.Request, o fakeObject) fakeObject {
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		return fakeObject{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": o["metadata"]}
	}
	return o
}

func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request, resource string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	selects := selector(r)
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	var items []string
	last, next := "", ""
	for _, key := range slices.Sorted(maps.Keys(f.objects[resource])) {
		o := f.objects[resource][key]
		if !selects(o) || key <= r.URL.Query().Get("continue") {
			continue
		}
		if limit > 0 && len(items) == limit {
			next = last
			break
		}
		items, last = append(items, partial(r, o).json()), key
	}
	kind, version := "List", "v1"
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
		kind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
	}
	_, _ = fmt.Fprintf(w, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d","continue":%q},"items":[%s]}`,
		kind, version, f.version, next, strings.Join(items, ","))
}

// change answers requests about one object.
func (f *fakeAPI) change(w http.ResponseWriter, r *http.Request, verb, resource, key string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	var sent fakeObject
	if len(body) > 0 {
		sent = decode(body)
	}
	if verb == "post" {
		key += sent.text("name")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.most > 0 && len(body) > f.most {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":500,"message":"etcdserver: request is too large"}`)
		return
	}
	there, exists := f.objects[resource][key]
	if sent != nil && verb != "delete" {
		sent.metadata()["namespace"], _, _ = strings.Cut(key, "/")
	}
	switch verb {
	case "get":
		if !exists {
			fail(w, http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, partial(r, there).json())
		return
	case "delete":
		uid := ""
		if preconditions, ok := sent["preconditions"].(map[string]any); ok {
			uid, _ = preconditions["uid"].(string)
		}
		switch {
		case !exists:
			fail(w, http.StatusNotFound)
		case uid != "" && uid != there.text("uid"):
			fail(w, http.StatusConflict)
		default:
			f.remove(resource, key)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Success"}`)
		}
		return
	case "patch":
		uid := sent.text("uid")
		if exists && !strings.Contains(r.URL.RawQuery, "force=true") && there.json() != "" && fmt.Sprint(there["rules"]) != fmt.Sprint(sent["rules"]) ||
			uid != "" && uid != there.text("uid") {
			fail(w, http.StatusConflict)
			return
		}
		if exists {
			sent.metadata()["uid"] = there.text("uid")
		}
	}
	f.put(resource, sent)
	_, _ = io.WriteString(w, sent.json())
}
