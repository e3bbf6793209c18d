// Package grant is the controller: for every ServiceAccount whose pods declare tokens it keeps the Role and the
// RoleBinding (see pkg/api/grant.go) with which the sidecar may mint them, and removes them when they are not needed.
//
// The unit of work is one ServiceAccount. What it gets is a pure function (desired.go) of its pods, of the
// installation's policy, of the API server's audiences and of what the Role gives already. Everything is read from caches
// that hold no more than that (cache.go), and written only where the server's objects differ.
//
// A grant is worth as much as the guard, the ValidatingAdmissionPolicy that keeps self-minting within it: without the
// guard nothing is granted that was not granted before (guard.go), nor before API servers have proven that they enforce it (proof.go).
//
// Do not add: reading Secrets, ConfigMaps or annotations (annotations can be edited, the sidecar's arguments cannot),
// minting tokens, deciding about audiences (internal/policy does).
package grant
