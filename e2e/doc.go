// Package e2e holds the tests that run the shipped images and the shipped chart on a real Kubernetes.
//
// Package cluster boots that Kubernetes on any Linux machine that has Go and root; the command in cmd/cluster does the same
// for a person. Everything is built from Go modules, which takes some minutes the first time. The result is kept outside
// the repository, below ${PODTOKEN_CACHE:-${XDG_CACHE_HOME:-~/.cache}}/podtoken; that directory can be deleted at any
// time. The few Debian packages that are needed beside Go are installed when they are missing.
//
// Package attack is what the tests attack with, and has a table of which test shows which attack.
//
// PODTOKEN_E2E_NAME is the name of the tests' cluster, "e2e" by default: with different names several runs live side by side.
//
// PODTOKEN_E2E_KUBERNETES is the version of Kubernetes that clusters have, "1.36", the newest by default: "go run ./cmd/cluster
// versions" lists them. Each takes its minutes the first time. "make e2e-versions" runs the suite on all but the newest. A test of what
// an older version cannot do is skipped there, with that reason.
//
// Every cluster has one node, unless a test asks for more (cluster.Options.Nodes): each has a network namespace, a containerd and
// a kubelet of its own, and costs seconds.
//
// With KUBECONFIG and PODTOKEN_E2E_REGISTRY set, the tests use that cluster and that registry instead. The cluster must
// have cert-manager. Give them a throw-away cluster: they install and upgrade the release podtoken in podtoken-system, stop
// it for a while, make and remove namespaces (podtoken-examples among them), and leave the release installed.
//
// It is a module of its own, so that what the tests need never becomes a dependency of the product.
package e2e
