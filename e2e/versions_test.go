package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/podtoken/podtoken/e2e/cluster"
)

// version is that of the clusters that the tests boot: what PODTOKEN_E2E_KUBERNETES names, else the newest.
func version(t *testing.T) cluster.Version {
	t.Helper()
	all, err := cluster.Versions("")
	must(t, err, "listing the versions")
	for _, v := range all {
		if v.Minor == os.Getenv(cluster.EnvKubernetes) {
			return v
		}
	}
	return all[0]
}

// since skips a test of what the cluster's Kubernetes cannot do, as it came with 1.minor only.
func since(t *testing.T, minor int, what string) {
	t.Helper()
	if has := minorVersion(t); has < minor {
		t.Skipf("Kubernetes 1.%d has no %s that could be tested; 1.%d has", has, what, minor)
	}
}

// minorVersion is that of the API server.
func minorVersion(t *testing.T) int {
	t.Helper()
	server, err := client.Discovery().ServerVersion()
	must(t, err, "asking the API server for its version")
	minor, err := strconv.Atoi(strings.TrimRight(server.Minor, "+"))
	must(t, err, "reading the minor version %q", server.Minor)
	return minor
}

// The suite runs on the version that PODTOKEN_E2E_KUBERNETES names: API server, kubelet and kubectl.
func TestKubernetesVersion(t *testing.T) {
	t.Parallel()
	if !testCluster.Owned() {
		t.Skip("a cluster that is not ours has the version that it has")
	}
	want := version(t).Release
	server, err := client.Discovery().ServerVersion()
	must(t, err, "asking the API server for its version")
	kubelet, err := testCluster.Kubectl(t.Context(), nil, "get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kubeletVersion}")
	must(t, err, "asking the node for its version")
	kubectl, err := testCluster.Kubectl(t.Context(), nil, "version", "--client")
	must(t, err, "asking kubectl for its version")
	kubectl, _, _ = strings.Cut(strings.TrimPrefix(kubectl, "Client Version: "), "\n")
	for what, got := range map[string]string{"the API server": server.GitVersion, "the kubelet": kubelet, "kubectl": kubectl} {
		if got != want {
			t.Errorf("%s has version %q, want %q", what, got, want)
		}
	}
	t.Logf("Kubernetes %s", server.GitVersion)
}
