package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/podtoken/podtoken/e2e/cluster"
)

// envKilled makes this test program be a run that boots a cluster of that name and is killed.
const envKilled = "PODTOKEN_TEST_KILLED"

func TestMain(m *testing.M) {
	if name := os.Getenv(envKilled); name != "" {
		c, err := cluster.Up(context.Background(), cluster.Options{Name: name, Log: os.Stderr, Nodes: 2})
		if err == nil {
			err = errors.Join(runPod(context.Background(), c, sleeper), runPod(context.Background(), c, server))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	if os.Getenv(envExternal) != "" {
		if err := external(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func up(t *testing.T, options cluster.Options) *cluster.Cluster {
	t.Helper()
	options.Log = t.Output()
	c, err := cluster.Up(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// sleeper runs on the first node, server on the second.
const (
	sleeper = `
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: ` + cluster.ImageBusybox + `
    command: [sleep, "100000"]
`
	server = `
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: ` + cluster.ImageBusybox + `
    command: [sh, -c, "hostname >/tmp/name; exec httpd -f -p 8080 -h /tmp"]
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
`
)

func runPod(ctx context.Context, c *cluster.Cluster, manifest string) error {
	if _, err := c.Kubectl(ctx, strings.NewReader(manifest), "apply", "-f", "-"); err != nil {
		return err
	}
	_, err := c.Kubectl(ctx, nil, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s")
	return err
}

// Two clusters must not notice each other, neither while they run nor when one ends. One of them has two nodes.
func TestTwoClustersSideBySide(t *testing.T) {
	ctx := t.Context()
	before := kernelSettings(t)
	clusters := make([]*cluster.Cluster, 2)
	var group errgroup.Group
	for i, name := range []string{"side-a", "side-b"} {
		group.Go(func() error {
			c, err := cluster.Up(ctx, cluster.Options{Name: name, Log: t.Output(), Nodes: 2 - i})
			if err != nil {
				return fmt.Errorf("cluster %q: %w", name, err)
			}
			clusters[i] = c
			t.Cleanup(func() {
				if err := c.Down(context.Background()); err != nil {
					t.Error(err)
				}
			})
			return runPod(ctx, c, sleeper)
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	ended, staying := clusters[0], clusters[1]
	assertHostname(t, ended)
	assertHostname(t, staying)
	assertAPIServerIP(t, staying)
	assertDiscovery(t, staying)
	assertSecondNode(t, ended)

	if after := kernelSettings(t); after != before {
		t.Errorf("the clusters have changed the machine's kernel settings from %q to %q", before, after)
	}

	if err := ended.Down(ctx); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, "side-a")
	assertHostname(t, staying)

	t.Run("components can be stopped and started", func(t *testing.T) { restart(t, staying) })
}

// kernelSettings are those that a kubelet changes.
func kernelSettings(t *testing.T) string {
	t.Helper()
	var all []string
	for _, name := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys"} {
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name+"="+strings.TrimSpace(string(value)))
	}
	return strings.Join(all, " ")
}

func assertHostname(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	out, err := c.Kubectl(t.Context(), nil, "exec", "sleeper", "--", "hostname")
	if err != nil || strings.TrimSpace(out) != "sleeper" {
		t.Errorf("hostname in the pod is %q, %v", out, err)
	}
}

// assertAPIServerIP shows that ClusterIPs work, from a pod and from the node.
func assertAPIServerIP(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if _, err := c.Kubectl(t.Context(), nil, "exec", "sleeper", "--", "sh", "-c", "nc -w 5 10.96.0.1 443 </dev/null"); err != nil {
		t.Errorf("the pod does not reach the API server: %v", err)
	}
	err := c.InNamespace(func() error {
		connection, err := net.DialTimeout("tcp4", "10.96.0.1:443", 5*time.Second)
		if err != nil {
			return err
		}
		return connection.Close()
	})
	if err != nil {
		t.Errorf("the node does not reach the API server: %v", err)
	}
}

// assertSecondNode shows that a pod on the second node runs, can be entered, and is reached from the first one, itself and
// through a Service.
func assertSecondNode(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	ctx := t.Context()
	if err := runPod(ctx, c, server); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(ctx, nil, "exec", "server", "--", "hostname"); err != nil || strings.TrimSpace(out) != "server" {
		t.Errorf("hostname in the pod on the second node is %q, %v", out, err)
	}
	if _, err := c.Kubectl(ctx, nil, "exec", "server", "--", "sh", "-c", "nc -w 5 10.96.0.1 443 </dev/null"); err != nil {
		t.Errorf("the pod on the second node does not reach the API server: %v", err)
	}
	for what, path := range map[string]string{"pod": "{.status.podIP} 8080", "service": "{.spec.clusterIP} 80"} {
		address, err := c.Kubectl(ctx, nil, "get", what, "server", "-o", "jsonpath="+path)
		if err != nil {
			t.Fatal(err)
		}
		var out string
		for range 50 { // kube-proxy hears of the pod's address a moment later than kubectl
			out, err = c.Kubectl(ctx, nil, "exec", "sleeper", "--", "sh", "-c", `printf 'GET /name HTTP/1.0\r\n\r\n' | nc -w 5 `+address)
			if err == nil && out != "" {
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		if err != nil || !strings.HasSuffix(strings.TrimSpace(out), "\nserver") {
			t.Errorf("the %s at %s answers the pod on the first node %q, %v", what, address, out, err)
		}
	}
}

func assertDiscovery(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for path, want := range map[string]string{
		"/.well-known/openid-configuration": `"issuer":"https://kubernetes.default.svc"`,
		"/openid/v1/jwks":                   `"alg":"RS256"`,
		"/version":                          `"gitVersion": "` + release(t) + `"`,
	} {
		out, err := c.Kubectl(t.Context(), nil, "get", "--raw", path)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s is %q, %v, want %s in it", path, out, err, want)
		}
	}
}

// release is that of the clusters of this run.
func release(t *testing.T) string {
	t.Helper()
	all, err := cluster.Versions("")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if name := os.Getenv(cluster.EnvKubernetes); name == "" || name == v.Minor {
			return v.Release
		}
	}
	t.Fatalf("no version is called %q", os.Getenv(cluster.EnvKubernetes))
	return ""
}

func restart(t *testing.T, c *cluster.Cluster) {
	ctx := t.Context()
	for _, component := range []string{cluster.APIServer, cluster.Kubelet, cluster.Containerd} {
		if err := c.StopComponent(component, 0); err != nil {
			t.Fatal(err)
		}
		if component == cluster.APIServer {
			if _, err := c.Kubectl(ctx, nil, "get", "--raw", "/readyz", "--request-timeout=2s"); err == nil {
				t.Error("the API server answers, though it was stopped")
			}
		}
		if err := c.StartComponent(component); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := c.Kubectl(ctx, nil, "exec", "sleeper", "--", "true")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func TestAKilledRunIsCleanedByTheNext(t *testing.T) {
	const name = "killed"
	killed := exec.CommandContext(t.Context(), os.Args[0])
	killed.Env = append(os.Environ(), envKilled+"="+name)
	killed.Stderr = t.Output()
	var exit *exec.ExitError
	if err := killed.Run(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the run was not killed: %v", err)
	}
	if all, err := cluster.List(); err != nil || stateOf(all, name) != "left over" {
		t.Fatalf("clusters are %+v, %v, want %q left over", all, err, name)
	}
	up(t, cluster.Options{Name: "next"})
	assertNothingLeft(t, name)
}

func TestABrokenComponentIsShownAndRemoved(t *testing.T) {
	c, err := cluster.Up(t.Context(), cluster.Options{Name: "broken", Log: t.Output(), APIServerArgs: []string{"--no-such-flag"}})
	if err == nil {
		t.Error("a cluster without an API server is up")
		err = c.Down(context.Background())
	}
	for _, want := range []string{"kube-apiserver does not work: it has ended", "unknown flag: --no-such-flag", "/podtoken-broken-logs"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	assertNothingLeft(t, "broken")
}

func stateOf(all []cluster.Summary, name string) string {
	for _, one := range all {
		if one.Name == name {
			return one.State
		}
	}
	return ""
}

// assertNothingLeft looks at the machine itself, not at what the package thinks is left.
func assertNothingLeft(t *testing.T, name string) {
	t.Helper()
	root := filepath.Dir(cluster.KubeconfigPath(name))
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", root, err)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range commands {
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), root+"/") {
			t.Errorf("process %s is still there: %q", filepath.Base(filepath.Dir(path)), content)
		}
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(table), " "+root+"/") {
		t.Errorf("something is still mounted below %s", root)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/podtoken-" + name, "/sys/fs/cgroup/podtoken-" + name, "/var/lib/cni/results/podtoken-" + name + "-*"} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("still there: %q %v", left, err)
		}
	}
	links, err := filepath.Glob("/var/log/containers/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, root+"/") {
			t.Errorf("link %s is still there", link)
		}
	}
}
