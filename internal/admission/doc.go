// Package admission answers the API server: AdmissionReview (admission.k8s.io/v1) in, decision of pkg/mutate and
// internal/policy out.
//
// It owns the transport and nothing else: limits and deadlines of a request, decoding, the form of the answer, one log
// line and the metrics of each review. What a pod gets is decided in pkg/mutate, and whether it may have it in
// internal/policy.
//
// It is a plain http.Handler, because controller-runtime's admission.Handler decodes into k8s.io/api's types through the
// universal deserializer. That alone took three times the CPU of a whole review here, when it was measured.
//
// Do not add: calls to the API server, caches, decisions about pods.
package admission
