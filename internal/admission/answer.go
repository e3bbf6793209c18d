package admission

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// appendAnswer appends the AdmissionReview that carries the verdict:
//
//	{"apiVersion", "kind", "response": {"uid", "allowed", "status": {"code", "reason", "message"}, "patch" (base64),
//	 "patchType", "auditAnnotations": {"outcome", "reason", "tokens"}, "warnings": []}}
//
// status is there for refusals; the API server puts `admission webhook "..." denied the request: ` in front of its message.
// patch and patchType are there together, or it refuses both. auditAnnotations end up in its audit log, with the webhook's
// name in front; tokens are the names of the pod's tokens, with commas between.
func appendAnswer(b []byte, v *verdict) []byte {
	b = append(b, `{"apiVersion":"`+reviewAPIVersion+`","kind":"`+reviewKind+`","response":{"uid":`...)
	b = appendString(b, v.request.UID)
	b = append(b, `,"allowed":`...)
	b = strconv.AppendBool(b, v.allowed())
	if !v.allowed() {
		b = append(b, `,"status":{"code":`...)
		b = strconv.AppendInt(b, int64(v.code), 10)
		b = append(b, `,"reason":`...)
		b = appendString(b, string(v.reason))
		b = append(b, `,"message":`...)
		b = appendString(b, v.message)
		b = append(b, '}')
	}
	if len(v.patch) > 0 {
		b = append(b, `,"patch":"`...)
		b = base64.StdEncoding.AppendEncode(b, v.patch)
		b = append(b, `","patchType":"JSONPatch"`...)
	}
	b = append(b, `,"auditAnnotations":{"outcome":`...)
	b = appendString(b, string(v.outcome))
	b = append(b, `,"reason":`...)
	b = appendString(b, string(v.reason))
	if len(v.tokens) > 0 {
		b = append(b, `,"tokens":`...)
		b = appendString(b, strings.Join(v.tokens, ","))
	}
	b = append(b, '}')
	for i, warning := range v.warnings {
		separator := ","
		if i == 0 {
			separator = `,"warnings":[`
		}
		b = append(b, separator...)
		b = appendString(b, warning)
	}
	if len(v.warnings) > 0 {
		b = append(b, ']')
	}
	return append(b, "}}\n"...)
}

// appendString appends a JSON string. Its only error is invalid UTF-8, which it replaces.
func appendString(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s)
	return b
}
