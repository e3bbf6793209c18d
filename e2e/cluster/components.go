package cluster

import (
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/podtoken/podtoken/e2e/cluster/internal/pki"
	"github.com/podtoken/podtoken/e2e/cluster/internal/sandbox"
)

// Names of the components that a cluster runs: for StopComponent, StartComponent and the log files.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kubelet           = "kubelet"
	Proxy             = "kube-proxy"
	Containerd        = "containerd"
	CertManager       = "cert-manager"
	Relay             = "relay"
)

// holders are the holders of certificates. The name is the name of the files.
func holders() map[string]pki.Identity {
	return map[string]pki.Identity{
		"apiserver": {
			User:  "kube-apiserver",
			Names: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			Addresses: []net.IP{
				net.IPv4(127, 0, 0, 1), // people and tests on the host, through the relay
				net.ParseIP(sandbox.NodeIP),
				net.ParseIP(firstClusIP),
			},
		},
		"apiserver-kubelet-client": {User: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}},
		"admin":                    {User: "admin", Groups: []string{"system:masters"}},
		Kubelet: {
			User:      "system:node:" + nodeName,
			Groups:    []string{"system:nodes"},
			Names:     []string{nodeName},
			Addresses: []net.IP{net.ParseIP(sandbox.NodeIP)},
		},
		ControllerManager: {User: "system:kube-controller-manager"},
		Scheduler:         {User: "system:kube-scheduler"},
		Proxy:             {User: "system:kube-proxy"},
		CertManager:       {User: "cert-manager", Groups: []string{"system:masters"}},
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

// command returns how a component is started.
func (c *Cluster) command(name string) (sandbox.Command, error) {
	command := sandbox.Command{
		Name: name,
		Path: c.binaries.Path(name),
		Dir:  c.sandbox.Path(),
		// containerd finds its shim, and the kubelet mount, in the PATH.
		Env: []string{"PATH=" + c.binaries.Dir() + ":" + os.Getenv("PATH")},
	}
	switch name {
	case Etcd:
		command.Args = []string{
			"--data-dir=etcd",
			"--listen-client-urls=http://127.0.0.1:2379",
			"--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380",
			"--unsafe-no-fsync", // the data is not worth waiting for the disk
		}
	case APIServer:
		command.Args = slices.Concat([]string{
			"--etcd-servers=http://127.0.0.1:2379",
			"--advertise-address=" + sandbox.NodeIP,
			"--secure-port=" + apiPort,
			"--client-ca-file=pki/ca.crt",
			"--tls-cert-file=pki/apiserver.crt",
			"--tls-private-key-file=pki/apiserver.key",
			"--service-account-key-file=pki/sa.pub",
			"--service-account-signing-key-file=pki/sa.key",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-cluster-ip-range=" + services,
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--allow-privileged=true",
			"--kubelet-client-certificate=pki/apiserver-kubelet-client.crt",
			"--kubelet-client-key=pki/apiserver-kubelet-client.key",
			"--kubelet-certificate-authority=pki/ca.crt",
			"--kubelet-preferred-address-types=InternalIP", // there is no DNS for host names
		}, c.options.APIServerArgs)
	case ControllerManager:
		command.Args = []string{
			"--kubeconfig=kube-controller-manager.conf",
			"--service-account-private-key-file=pki/sa.key",
			"--root-ca-file=pki/ca.crt",
			"--cluster-cidr=" + podNetwork,
			"--allocate-node-cidrs=true",
			"--use-service-account-credentials=true",
			"--leader-elect=false", // there is only one
			// It starts with a request or two for each of its 50 controllers, one after the other.
			"--kube-api-qps=500",
			"--kube-api-burst=1000",
			"--flex-volume-plugin-dir=" + c.sandbox.Path("volumeplugins"),
		}
	case Scheduler:
		command.Args = []string{"--kubeconfig=kube-scheduler.conf", "--leader-elect=false"}
	case Kubelet:
		command.Args = []string{
			"--mount", "--propagation=unchanged", "sh", "-euc", kubeletScript,
			command.Path, c.sandbox.Path("kubelet-private"),
			"--config=kubelet.yaml",
			"--kubeconfig=kubelet.conf",
			"--hostname-override=" + nodeName,
			"--node-ip=" + sandbox.NodeIP,
			"--root-dir=" + c.sandbox.Path("kubelet"),
			"--v=2",
		}
		command.Path = "unshare"
	case Proxy:
		command.Args = []string{"--config=kube-proxy.yaml"}
	case Containerd:
		command.Args = []string{"--config=containerd.toml"}
	case CertManager:
		command.Args = []string{c.sandbox.Path("cert-manager.conf")}
	case Relay:
		command.Args = []string{"127.0.0.1:" + apiPort}
		command.Files = []*os.File{c.listener}
	default:
		return command, fmt.Errorf("component %q is not known; the components are %q", name, Components())
	}
	return command, nil
}

// Components returns the names of all components, in the order in which they start.
func Components() []string {
	return []string{Relay, Etcd, Containerd, APIServer, ControllerManager, Scheduler, Kubelet, Proxy, CertManager}
}
