// Package admission answers the API server: AdmissionReview (admission.k8s.io/v1) in, decision of pkg/mutate out.
//
// It owns the transport and nothing else: limits and deadlines of a request, decoding, the form of the answer, one log
// line and the metrics of each review. The decision is in pkg/mutate.
//
// It is a plain http.Handler, because controller-runtime's admission.Handler decodes into k8s.io/api's types through the
// universal deserializer. That alone took three times the CPU of a whole review here, when it was measured.
//
// Do not add: calls to the API server, caches, decisions about pods.
package admission
