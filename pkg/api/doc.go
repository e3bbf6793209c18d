// Package api holds every public name of podtoken: annotations, labels, names inside the pod, the arguments and
// environment between webhook and sidecar, and the closed sets of outcomes and reasons.
//
// It has no logic beyond constants and plain structs and imports nothing, because the sidecar, which runs in every
// pod of its users, links it. Do not add an import here.
package api
