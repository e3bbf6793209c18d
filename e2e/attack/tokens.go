package attack

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Victim is what an attacker knows who has got as far as the file system of the sidecar in a pod.
type Victim struct {
	Grant
	Node string `json:"node"`
	// Sibling is another pod of the ServiceAccount.
	Sibling    string `json:"sibling"`
	SiblingUID string `json:"siblingUID"`
	// Other is another ServiceAccount of the namespace.
	Other string `json:"other"`
	// Webhook is a MutatingWebhookConfiguration.
	Webhook string `json:"webhook"`
}

// TokenRequest is a row of the table of token requests.
type TokenRequest struct {
	Name    string
	Request Request
	// Code of the answer, and a part of its message.
	Code int
	Want string
	// Unguarded is the code without the guard and with a Role for every ServiceAccount of the namespace: 201, unless the API server itself
	// has something against it.
	Unguarded int
	// Since is the minor version of Kubernetes that has what is asked for; older ones ignore it.
	Since int
}

// Parts of the guard's denials.
const (
	wantBound    = "may mint only tokens that are bound to the calling pod"
	wantAudience = `may not mint tokens for audience "`
	wantLifetime = "may not mint tokens that last "
	// wantGuard is the least: a message with what was asked for in it is too long then, or would have more than one line.
	wantGuard = "'podtoken-guard'"
	wantEight = "may mint only tokens of 1 to 8 audiences"
)

// TokenRequests are what is tried with the sidecar's credential: first what it may have, then everything else.
func TokenRequests(v Victim) []TokenRequest {
	declared, api, lifetime := v.Audiences[0], v.Own[0], v.Lifetimes[0]
	reference := func(change func(*Reference)) *Reference {
		r := v.own()
		change(r)
		return r
	}
	own := v.own()
	issued := func(name string, spec Spec) TokenRequest { return v.row(name, spec, 201, "", 201) }
	denied := func(name string, spec Spec, want string) TokenRequest { return v.row(name, spec, 403, want, 201) }
	unbound := Spec{Audiences: []string{declared}, Lifetime: lifetime}
	loot := Spec{Audiences: []string{audienceOfAWS}, Lifetime: forEver}
	return []TokenRequest{
		issued("the declared token", Spec{[]string{declared}, lifetime, own}),
		issued("a renewal", Spec{[]string{api}, renewalSeconds, own}),
		issued("a renewal without any audiences", Spec{[]string{}, 1200, own}),
		v.raw("fields in another case are ignored, whatever is asked of validation", 201, "", 201, v.path()+"?fieldValidation=Ignore", contentJSON,
			tokenRequest(`{"Audiences":["`+audienceOfAWS+`"],"audiences":["`+declared+`"],"ExpirationSeconds":`+strconv.Itoa(forEver)+`,"expirationSeconds":`+fmt.Sprint(lifetime)+
				`,"boundObjectRef":`+text(own)+`,"BoundObjectRef":null}`)),

		// What is asked for.
		denied("an unbound token", unbound, wantBound),
		denied("an unbound token of the API server for ever", Spec{[]string{api}, forEver, nil}, wantBound),
		denied("a token of the sibling pod", Spec{[]string{declared}, lifetime, reference(func(r *Reference) { r.Name, r.UID = v.Sibling, v.SiblingUID })}, wantBound),
		denied("an audience that no pod declares", Spec{[]string{"other"}, lifetime, own}, wantAudience+`other"`),
		denied("an undeclared audience after declared ones", Spec{[]string{declared, "other"}, lifetime, own}, wantAudience+`other"`),
		denied("the API server's audience mixed with another", Spec{[]string{api, declared}, lifetime, own}, wantAudience+api+`"`),
		denied("a declared audience mixed with the API server's", Spec{[]string{declared, api}, lifetime, own}, wantAudience+api+`"`),
		denied("more audiences than a token may have", Spec{repeated(declared, 9), lifetime, own}, wantEight),
		denied("an audience 100,000 times", Spec{repeated(declared, 100_000), lifetime, own}, wantEight),
		denied("an audience of 2.5 MB", Spec{[]string{strings.Repeat("a", 2_500_000)}, lifetime, own}, wantGuard),
		denied("an empty audience", Spec{[]string{""}, lifetime, own}, "none of them empty"),
		denied("a blank before a declared audience", Spec{[]string{" " + declared}, lifetime, own}, wantAudience+" "+declared),
		denied("a line break in a declared audience", Spec{[]string{declared + "\n"}, lifetime, own}, wantGuard),
		denied("an audience that stands for all", Spec{[]string{"*"}, lifetime, own}, wantAudience+`*"`),
		denied("a longer lifetime than declared", Spec{[]string{declared}, lifetime + 1, own}, wantLifetime+fmt.Sprint(lifetime+1)+" s"),
		denied("a shorter lifetime than declared", Spec{[]string{declared}, 600, own}, wantLifetime+"600 s"),
		v.raw("a declared audience for the lifetime of those who ask for none", 403, wantLifetime+"3600 s", 201, v.path(), contentJSON,
			tokenRequest(`{"audiences":["`+declared+`"],"boundObjectRef":`+text(own)+`}`)),
		denied("the lifetime that becomes a year", Spec{[]string{api}, 3607, own}, wantLifetime+"3607 s"),
		denied("a renewal for more than an hour", Spec{[]string{api}, renewalSeconds + 1, own}, wantLifetime+"3601 s"),
		denied("a renewal for ever", Spec{[]string{api}, forEver, own}, wantLifetime),
		v.row("a lifetime of 599 s", Spec{[]string{declared}, 599, own}, 422, "", 422),
		v.row("no lifetime", Spec{[]string{declared}, 0, own}, 422, "", 422),
		v.row("a negative lifetime", Spec{[]string{declared}, -600, own}, 422, "", 422),

		// What it is bound to.
		denied("a reference of another version", Spec{[]string{declared}, lifetime, reference(func(r *Reference) { r.APIVersion = "v9" })}, wantBound),
		denied("a reference of an empty group", Spec{[]string{declared}, lifetime, reference(func(r *Reference) { r.APIVersion = "/v1" })}, wantBound),
		denied("a reference without a version", Spec{[]string{declared}, lifetime, reference(func(r *Reference) { r.APIVersion = "" })}, wantBound),
		denied("a reference to a Secret", Spec{[]string{declared}, lifetime, reference(func(r *Reference) { r.Kind, r.Name, r.UID = "Secret", "secret", "" })}, wantBound),
		denied("a reference to a Node", Spec{[]string{declared}, lifetime, reference(func(r *Reference) { r.Kind, r.Name, r.UID = "Node", v.Node, "" })}, wantBound),
		denied("a reference without the uid", Spec{[]string{declared}, lifetime, reference(func(r *Reference) { r.UID = "" })}, wantBound),
		// Without the guard the API server compares the uid, where there is one.
		v.row("a reference with another uid", Spec{[]string{declared}, lifetime, reference(func(r *Reference) { r.UID = v.SiblingUID })}, 403, wantBound, 409),
		v.row("a reference to a pod in small letters", Spec{[]string{declared}, lifetime, reference(func(r *Reference) { r.Kind = "pod" })}, 403, wantBound, 400),
		since(37, v.raw("an attestation with the own pod", 422, "", 422, v.path(), contentJSON,
			tokenRequest(`{"audiences":["`+declared+`"],"expirationSeconds":`+fmt.Sprint(lifetime)+`,"boundObjectRef":`+text(own)+`,"attestations":{"admissionReviewAPIGroups":["*"]}}`))),
		since(37, v.raw("an attestation with a webhook", 403, wantBound, 400, v.path(), contentJSON,
			tokenRequest(`{"audiences":["`+declared+`"],"expirationSeconds":`+fmt.Sprint(lifetime)+`,"attestations":{"admissionReviewAPIGroups":["*"]},"boundObjectRef":`+
				text(Reference{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingWebhookConfiguration", Name: v.Webhook})+`}`))),
		v.raw("a reference twice, the last one null", 403, wantBound, 201, v.path(), contentJSON,
			tokenRequest(`{"audiences":["`+declared+`"],"expirationSeconds":`+fmt.Sprint(lifetime)+`,"boundObjectRef":`+text(own)+`,"boundObjectRef":null}`)),
		v.raw("audiences twice, the last ones undeclared", 403, wantAudience+`other"`, 201, v.path(), contentJSON,
			tokenRequest(`{"audiences":["`+declared+`"],"expirationSeconds":`+fmt.Sprint(lifetime)+`,"boundObjectRef":`+text(own)+`,"audiences":["other"]}`)),

		// How it is asked.
		v.raw("a dry run, which signs all alike", 403, wantBound, 201, v.path()+"?dryRun=All", contentJSON, encode(unbound)),
		v.raw("YAML", 403, wantBound, 201, v.path(), "Content-Type: application/yaml",
			[]byte("apiVersion: authentication.k8s.io/v1\nkind: TokenRequest\nspec: {audiences: ["+audienceOfAWS+"], expirationSeconds: 4294967296}\n")),
		v.raw("protobuf", 403, wantBound, 201, v.path(), "Content-Type: application/vnd.kubernetes.protobuf", protobuf(loot)),
		v.raw("a path in percents", 403, wantBound, 201, strings.Replace(v.path(), "/"+v.Account+"/", fmt.Sprintf("/%%%X%s/", v.Account[0], v.Account[1:]), 1), contentJSON, encode(loot)),
		v.raw("a double slash", 403, "", 403, strings.Replace(v.path(), "/serviceaccounts/", "//serviceaccounts/", 1), contentJSON, encode(loot)),
		v.raw("an older version", 400, "", 400, v.path(), contentJSON, []byte(`{"apiVersion":"authentication.k8s.io/v1beta1","kind":"TokenRequest","spec":`+text(loot)+`}`)),
		v.raw("CBOR", 415, "", 415, v.path(), "Content-Type: application/cbor", []byte{0xd9, 0xd9, 0xf7, 0xa0}),
		v.raw("no body", 400, "", 400, v.path(), contentJSON, nil),

		// For whom, and as whom.
		v.raw("a token of another ServiceAccount", 403, `cannot create resource "serviceaccounts/token"`, 201,
			strings.Replace(v.path(), "/"+v.Account+"/", "/"+v.Other+"/", 1), contentJSON, encode(unbound)),
		v.raw("the name of another in the body", 422, "", 422, v.path(), contentJSON,
			[]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","metadata":{"name":"`+v.Other+`"},"spec":`+text(Spec{[]string{declared}, lifetime, own})+`}`)),
		v.with(v.raw("as itself without the pod, by impersonation", 403, "cannot impersonate", 403, v.path(), contentJSON, encode(unbound)),
			"Impersonate-User: system:serviceaccount:"+v.Namespace+":"+v.Account),
	}
}

func (v Victim) path() string { return tokenPath(v.Namespace, v.Account) }

func (v Victim) row(name string, spec Spec, code int, want string, unguarded int) TokenRequest {
	return v.raw(name, code, want, unguarded, v.path(), contentJSON, encode(spec))
}

func (v Victim) raw(name string, code int, want string, unguarded int, path, contentType string, body []byte) TokenRequest {
	return TokenRequest{Name: name, Request: Request{path, []string{contentType}, body}, Code: code, Want: want, Unguarded: unguarded}
}

func (Victim) with(row TokenRequest, header string) TokenRequest {
	row.Request.Header = append(row.Request.Header, header)
	return row
}

// text is a value as JSON. The values of this package can all be encoded.
func text(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// since is the row for versions from minor on.
func since(minor int, row TokenRequest) TokenRequest {
	row.Since = minor
	return row
}

func repeated(value string, times int) []string {
	all := make([]string, times)
	for i := range all {
		all[i] = value
	}
	return all
}

// protobuf encodes an unbound TokenRequest as k8s.io/api/authentication/v1/generated.proto has it.
func protobuf(spec Spec) []byte {
	var inner []byte
	for _, audience := range spec.Audiences {
		inner = append(inner, field(1, []byte(audience))...)
	}
	inner = append(inner, 4<<3)
	inner = append(inner, varint(uint64(spec.Lifetime))...) //nolint:gosec // it is positive
	request := field(2, inner)
	typeMeta := append(field(1, []byte("authentication.k8s.io/v1")), field(2, []byte("TokenRequest"))...)
	return append([]byte("k8s\x00"), append(field(1, typeMeta), field(2, request)...)...)
}

// field is a field of protobuf that has a length.
func field(number byte, content []byte) []byte {
	return append(append([]byte{number<<3 | 2}, varint(uint64(len(content)))...), content...)
}

func varint(n uint64) []byte {
	var all []byte
	for ; n >= 0x80; n >>= 7 {
		all = append(all, byte(n)|0x80)
	}
	return append(all, byte(n)) //nolint:gosec // seven bits
}
