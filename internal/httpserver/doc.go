// Package httpserver keeps the HTTP servers of webhook and controller answering, whatever else connects to their ports: any
// Pod of the cluster reaches them unless a NetworkPolicy says otherwise.
//
// A Listener accepts every connection at once and bounds how many there are, in total and from one address; what makes room
// for a new one is in queue.go. A connection has a short time for its TLS handshake, few bytes for it, and few fields in a
// header, because these are what a caller costs memory before net/http has seen a request. NewServer has the limits that
// net/http itself knows.
//
// A handler that was called properly reports it by Delivered. Nothing is known of who calls: with the API server's client
// certificate (--client-ca-file) strangers do not even get past the handshake.
//
// Do not add: handlers, knowledge of admission requests.
package httpserver
