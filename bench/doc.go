// Package bench is the place of the measurements whose results are in docs/performance.md. Each command below cmd, and the one in admission, writes
// one section of that document, with the machine and its load beside the numbers; nothing of it fails because something
// was slow. What must not grow (bytes, packages that are linked, allocations) is held by tests beside the code.
//
//	make bench          Go's benchmarks, and the programs on the loopback interface: minutes
//	make bench-cluster  pods on a real Kubernetes: half an hour
//
// What is compared is measured in turns in one run, so that a busy machine is busy for all of them: compare numbers of
// one table with each other, not with those of another run.
//
// It is a module of its own, so that what measuring needs never becomes a dependency of the product; admission is another,
// because it links the peers.
package bench
