// Package policy decides which tokens an installation allows: one matcher for the webhook, which refuses pods, and for
// the controller, which grants nothing else.
//
//	parse    the file -> Policy                              parse.go, glob.go
//	check    Policy, ServiceAccount, tokens -> Refusal       check.go
//	explain  what was refused, why, and what would change it refusal.go
//
// A Policy never changes and is safe for any number of goroutines. No request makes Check panic or takes it long: the
// controller feeds it tokens of pods that no webhook has looked at.
//
// Do not add: I/O, clocks, loggers, metrics, Kubernetes clients.
package policy
