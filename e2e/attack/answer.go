package attack

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// messageLimit is how much of an answer's message is kept: enough for each of podtoken's own, with room for a name.
const messageLimit = 2000

// Answer is what the API server says to a request. A token is never in it: only what the token says about itself.
type Answer struct {
	Code int `json:"code"`
	// Message of an error, at most messageLimit bytes of it.
	Message string `json:"message,omitempty"`
	// Token that was issued.
	Token *Token `json:"token,omitempty"`
}

// Token is the part of a token's claims that tells what it is good for.
type Token struct {
	Subject   string   `json:"subject"`
	Audiences []string `json:"audiences"`
	// Lifetime in seconds.
	Lifetime int64 `json:"lifetime"`
	// Pod and PodUID that the token is bound to; empty for one that is not.
	Pod    string `json:"pod,omitempty"`
	PodUID string `json:"podUID,omitempty"`
}

func (t Token) String() string {
	bound := "unbound"
	if t.Pod != "" {
		bound = fmt.Sprintf("bound to pod %q", t.Pod)
	}
	return fmt.Sprintf("%s, audiences %q, %d s (%.1f years), %s", t.Subject, t.Audiences, t.Lifetime, float64(t.Lifetime)/(365.25*24*3600), bound)
}

// readAnswer reads the body of an answer and the token in it.
func readAnswer(code int, body []byte) (answer Answer, token string) {
	answer.Code = code
	var content struct {
		Message string `json:"message"`
		// An object in a TokenRequest, the word "Failure" in an error.
		Status json.RawMessage `json:"status"`
	}
	if err := json.Unmarshal(body, &content); err != nil {
		answer.Message = fmt.Sprintf("%d bytes that are not JSON", len(body)) // The bytes themselves could be a token.
		return answer, ""
	}
	answer.Message = content.Message[:min(len(content.Message), messageLimit)]
	var status struct {
		Token string `json:"token"`
	}
	if json.Unmarshal(content.Status, &status) == nil && status.Token != "" {
		answer.Token = claims(status.Token)
	}
	return answer, status.Token
}

// claims reads a token, whose signature is the API server's business. One that cannot be read is an empty Token, which nothing allows.
func claims(token string) *Token {
	var read struct {
		Subject    string   `json:"sub"`
		Audiences  []string `json:"aud"`
		Expires    int64    `json:"exp"`
		IssuedAt   int64    `json:"iat"`
		Kubernetes struct {
			Pod struct{ Name, UID string } `json:"pod"`
		} `json:"kubernetes.io"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return &Token{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &read) != nil {
		return &Token{}
	}
	return &Token{
		Subject: read.Subject, Audiences: read.Audiences, Lifetime: read.Expires - read.IssuedAt,
		Pod: read.Kubernetes.Pod.Name, PodUID: read.Kubernetes.Pod.UID,
	}
}

// Outcomes of a request, by the code and by who denied it.
const (
	Allowed      = "201 allowed"
	Unbound      = "201 unbound"
	OtherPod     = "201 bound to another pod"
	Undeclared   = "201 undeclared audience"
	Undue        = "201 undeclared lifetime"
	OtherAccount = "201 of another ServiceAccount"
	ByGuard      = "403 guard"
	ByRBAC       = "403 RBAC"
	ByOthers     = "403 others"
	// ByAuthentication is for a credential that has ended, as with its ServiceAccount.
	ByAuthentication = "401"
	// NoAnswer is a connection that the server has closed.
	NoAnswer = "no answer"
)

// Violations are the outcomes that must not be.
var Violations = []string{Unbound, OtherPod, Undeclared, Undue, OtherAccount}

// Grant is what a pod may have: tokens for declared audiences and lifetimes that are bound to itself. The zero value allows nothing.
type Grant struct {
	Namespace string   `json:"namespace"`
	Account   string   `json:"account"`
	Pod       string   `json:"pod"`
	PodUID    string   `json:"podUID"`
	Audiences []string `json:"audiences"`
	Lifetimes []int64  `json:"lifetimes"`
	// Own are the API server's audiences, which the sidecar's credential is renewed for.
	Own []string `json:"own"`
}

// renewalSeconds is the longest lifetime of a renewed credential.
const renewalSeconds = 3600

// Outcome judges an answer.
func (g Grant) Outcome(a Answer) string {
	switch {
	case a.Token != nil:
		return g.judge(*a.Token)
	case a.Code == 403 && (strings.Contains(a.Message, "'podtoken-guard") || strings.Contains(a.Message, "'guard.podtoken.dev")):
		return ByGuard
	case a.Code == 403 && strings.Contains(a.Message, "cannot create resource"):
		return ByRBAC
	case a.Code == 403:
		return ByOthers
	}
	return fmt.Sprintf("%d", a.Code)
}

func (g Grant) judge(t Token) string {
	within := func(audiences []string) bool {
		return len(t.Audiences) > 0 && !slices.ContainsFunc(t.Audiences, func(a string) bool { return !slices.Contains(audiences, a) })
	}
	switch {
	case t.Pod == "":
		return Unbound
	case t.PodUID != g.PodUID || t.Pod != g.Pod:
		return OtherPod
	case t.Subject != "system:serviceaccount:"+g.Namespace+":"+g.Account:
		return OtherAccount
	case within(g.Own) && t.Lifetime <= renewalSeconds:
		return Allowed
	case !within(g.Audiences):
		return Undeclared
	case !slices.Contains(g.Lifetimes, t.Lifetime):
		return Undue
	}
	return Allowed
}
