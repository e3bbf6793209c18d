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
	KubeRouter        = "kube-router"
	Containerd        = "containerd"
	CertManager       = "cert-manager"
	Relay             = "relay"
)

// nodeComponents are those that every node has, KubeRouter only with Options.NetworkPolicies: see node.component for their
// names on other nodes than the first.
var nodeComponents = []string{Kubelet, Proxy, KubeRouter, Containerd}

// holders are the holders of certificates. The name is the name of the files.
func (c *Cluster) holders() map[string]pki.Identity {
	all := map[string]pki.Identity{
		"apiserver": {
			User:  "kube-apiserver",
			Names: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			Addresses: []net.IP{
				net.IPv4(127, 0, 0, 1), // people and tests on the host, through the relay
				net.ParseIP(firstNode.ip()),
				net.ParseIP(firstClusIP),
			},
		},
		"apiserver-kubelet-client": {User: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}},
		"admin":                    {User: "admin", Groups: []string{"system:masters"}},
		ControllerManager:          {User: "system:kube-controller-manager"},
		Scheduler:                  {User: "system:kube-scheduler"},
		Proxy:                      {User: "system:kube-proxy"},
		CertManager:                {User: "cert-manager", Groups: []string{"system:masters"}},
		KubeRouter:                 {User: "kube-router", Groups: []string{"system:masters"}},
	}
	for _, n := range c.nodes() {
		all[n.component(Kubelet)] = n.identity()
	}
	return all
}

// command returns how a component is started.
func (c *Cluster) command(name string) (sandbox.Command, error) {
	command := sandbox.Command{
		Name: name,
		Path: c.binaries.Path(name),
		Dir:  c.sandbox.Path(),
		Node: int(firstNode),
		// containerd finds its shim, and the kubelet mount, in the PATH.
		Env: []string{"PATH=" + c.binaries.Dir() + ":" + os.Getenv("PATH")},
	}
	if program, n := splitComponent(name); slices.Contains(nodeComponents, program) && slices.Contains(c.nodes(), n) {
		return c.nodeCommand(command, program, n), nil
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
			"--advertise-address=" + firstNode.ip(),
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
			"--use-service-account-credentials=true",
			"--leader-elect=false", // there is only one
			// It starts with a request or two for each of its 50 controllers, one after the other.
			"--kube-api-qps=500",
			"--kube-api-burst=1000",
			"--flex-volume-plugin-dir=" + c.sandbox.Path("volumeplugins"),
		}
	case Scheduler:
		command.Args = []string{"--kubeconfig=kube-scheduler.conf", "--leader-elect=false"}
	case CertManager:
		command.Args = []string{c.sandbox.Path("cert-manager.conf")}
	case Relay:
		command.Args = []string{"127.0.0.1:" + apiPort}
		command.Files = []*os.File{c.listener}
	default:
		return command, fmt.Errorf("component %q is not known; the components are %q, and %q on other nodes than the first", name, Components(), node(2).component(Kubelet))
	}
	return command, nil
}

// Components returns the names of all components, in the order in which they start.
func Components() []string {
	return []string{Relay, Etcd, Containerd, APIServer, ControllerManager, Scheduler, Kubelet, Proxy, CertManager}
}
