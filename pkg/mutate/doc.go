// Package mutate decides what podtoken does with one pod and computes the JSON Patch for it.
//
// It is pure: everything that a decision needs is in Input, nothing is read from the network, the clock or the file
// system, the same Input always gives the same Result, and no Input makes it panic. The work is done in four steps, a
// file (or two) each:
//
//	parse    annotations -> request          parse.go, profiles.go, presets.go, formats.go, unique.go, suggest.go; values.go
//	decide   the truth table                 decide.go
//	plan     what the pod must look like     plan.go, identity.go, resources.go, sidecar.go
//	patch    what has to be added for it     conflicts.go, ours.go, patch.go
//
// The patch is never a diff. It consists of explicit operations that are computed from the raw object, so a field that
// this program's k8s.io/api does not know survives, on the user's containers and on the pod.
//
// Do not add: I/O, clocks, loggers, metrics, controller-runtime, client-go. A test holds the list of imports.
package mutate
