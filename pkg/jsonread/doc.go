// Package jsonread reads what is needed out of a JSON document, from front to back, without building the rest of it.
//
// A decision about a pod needs a twentieth of its review. Decoding into structs by reflection costs more than all the rest
// of the webhook, so the two readers that exist (of reviews, in internal/admission, and of pods, in pkg/mutate) walk over
// the document with go-json-experiment's jsontext, which checks the syntax on the way. docs/performance.md compares it with
// the alternatives.
//
// What is read is what encoding/json would read into structs of the same fields, but for two things in which Kubernetes'
// own decoder is as strict or as plain: names match exactly, not by case folding, and of names that appear twice the last
// one counts alone. A fuzz test in pkg/mutate holds the two against each other.
package jsonread
