package cluster

import (
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podtoken/podtoken/e2e/cluster/internal/pki"
	"github.com/podtoken/podtoken/e2e/cluster/internal/sandbox"
)

// maxNodes is far more than this machine can bear.
const maxNodes = 9

// node is a machine of the cluster: a network namespace with a containerd, a kubelet and a kube-proxy of its own. The first
// one has the control plane, too.
type node int

const firstNode node = sandbox.FirstNode

// nodes are those of the cluster.
func (c *Cluster) nodes() []node {
	all := make([]node, c.options.Nodes)
	for i := range all {
		all[i] = firstNode + node(i)
	}
	return all
}

func (n node) name() string { return fmt.Sprintf("node%d", n) }

func (n node) ip() string { return sandbox.NodeIP(int(n)) }

// pods is the network of the node's pods, a part of podNetwork. The controller manager gives out none: it might choose others.
func (n node) pods() string { return fmt.Sprintf("10.244.%d.0/24", n-firstNode) }

// component is the name of one of the node's components: "kubelet", and "kubelet-node2".
func (n node) component(name string) string {
	if n == firstNode {
		return name
	}
	return name + "-" + n.name()
}

// splitComponent is the reverse of component.
func splitComponent(component string) (string, node) {
	for n := firstNode + 1; n <= maxNodes; n++ {
		if name, ok := strings.CutSuffix(component, "-"+n.name()); ok {
			return name, n
		}
	}
	return component, firstNode
}

// nodePath is a path in the directory of a node: the cluster's for the first one, and one in it for each other.
func (c *Cluster) nodePath(n node, elements ...string) string {
	if n != firstNode {
		elements = append([]string{n.name()}, elements...)
	}
	return c.sandbox.Path(elements...)
}

// podLogs is the directory of a node's pods' logs, beside the logs of the components.
func (c *Cluster) podLogs(n node) string { return c.sandbox.Path("log", n.component("pods")) }

// addNodes makes the networks of the nodes that the cluster has beside the first one.
func (c *Cluster) addNodes() error {
	for _, added := range c.nodes()[1:] {
		if err := c.sandbox.AddNode(int(added)); err != nil {
			return fmt.Errorf("making %s: %w", added.name(), err)
		}
	}
	for _, on := range c.nodes() {
		for _, to := range c.nodes() {
			if on == to {
				continue
			}
			if err := c.sandbox.Route(int(on), to.pods(), int(to)); err != nil {
				return err
			}
		}
	}
	return nil
}

// identity is the holder of a kubelet's certificate.
func (n node) identity() pki.Identity {
	return pki.Identity{
		User:      "system:node:" + n.name(),
		Groups:    []string{"system:nodes"},
		Names:     []string{n.name()},
		Addresses: []net.IP{net.ParseIP(n.ip())},
	}
}

// kubeletScript starts the kubelet with files of its own in the place of those of the machine that it would change: the
// directory of sockets for device plugins, which it empties when it starts, the links to logs, and kernel settings. Only
// these mounts are hidden from the rest of the machine. The mounts that the kubelet makes for pods are seen by containerd:
// see shareKubeletMounts.
const kubeletScript = `
private=$1; shift
for directory in /var/lib/kubelet /var/log/containers; do
  mkdir -p "$directory" "$private$directory"
  mount --make-private "$(findmnt --noheadings --output TARGET --target "$directory")"
  mount --bind "$private$directory" "$directory"
done
mount --make-private /proc
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  copy="$private/$(basename "$setting")"
  cat "/proc/sys/$setting" >"$copy"
  mount --bind "$copy" "/proc/sys/$setting"
done
exec "$0" "$@"
`

// kubeRouterScript has what pods of one node send to each other over its bridge go through iptables, as pods of different nodes do.
const kubeRouterScript = `
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
exec "$0" "$@"
`

// nodeCommand completes the command of a component that every node has.
func (c *Cluster) nodeCommand(command sandbox.Command, name string, n node) sandbox.Command {
	command.Path, command.Dir, command.Node = c.binaries.Path(name), c.nodePath(n), int(n)
	switch name {
	case Containerd:
		command.Args = []string{"--config=containerd.toml"}
	case Proxy:
		command.Args = []string{"--config=kube-proxy.yaml"}
	case KubeRouter:
		command.Args = []string{
			"-euc", kubeRouterScript, command.Path,
			"--kubeconfig=" + c.sandbox.Path(KubeRouter+".conf"),
			"--hostname-override=" + n.name(),
			"--run-firewall=true", "--run-router=false", "--run-service-proxy=false",
			"--service-cluster-ip-range=" + services,
			"--v=1",
		}
		command.Path = "sh"
	case Kubelet:
		command.Args = []string{
			"--mount", "--propagation=unchanged", "sh", "-euc", kubeletScript,
			command.Path, c.nodePath(n, "kubelet-private"),
			"--config=kubelet.yaml",
			"--kubeconfig=" + c.sandbox.Path(n.component(Kubelet)+".conf"),
			"--hostname-override=" + n.name(),
			"--node-ip=" + n.ip(),
			"--root-dir=" + c.nodePath(n, "kubelet"),
			"--v=2",
		}
		command.Path = "unshare"
	}
	return command
}

// writeNodeConfigs makes the directories and files of one node.
func (c *Cluster) writeNodeConfigs(n node) error {
	for _, directory := range []string{c.nodePath(n, "cni"), c.nodePath(n, "kubelet"), c.nodePath(n, "volumeplugins"), c.podLogs(n)} {
		if err := os.MkdirAll(directory, 0o700); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"containerd.toml":      c.containerdConfig(n),
		"cni/10-node.conflist": c.cniConfig(n),
		"kubelet.yaml":         c.kubeletConfig(n),
		"kube-proxy.yaml":      c.proxyConfig(n),
	} {
		if err := os.WriteFile(c.nodePath(n, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return c.shareKubeletMounts(n)
}

// shareKubeletMounts makes the kubelet's directory a mount whose mounts are seen in every mount namespace of the machine
// that has a copy of it: the kubelet has a namespace of its own.
func (c *Cluster) shareKubeletMounts(n node) error {
	directory := c.nodePath(n, "kubelet")
	if err := unix.Mount(directory, directory, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s: %w", directory, err)
	}
	if err := unix.Mount("", directory, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing the mounts of %s: %w", directory, err)
	}
	return nil
}
