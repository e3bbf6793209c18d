package cluster

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/podtoken/podtoken/e2e/cluster/internal/pki"
)

const (
	podNetwork  = "10.244.0.0/16"
	services    = "10.96.0.0/16"
	firstClusIP = "10.96.0.1" // of the Service "kubernetes"
	apiPort     = "6443"
)

// containerdConfig keeps everything below the node's directory, so that several containerds run side by side.
func (c *Cluster) containerdConfig(n node) string {
	root := c.nodePath(n)
	return fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
[grpc]
  address = %[3]q
[ttrpc]
  address = %[4]q
[plugins.'io.containerd.internal.v1.opt']
  path = %[5]q
[plugins.'io.containerd.nri.v1.nri']
  disable = true                   # its socket has one path for the whole machine
[plugins.'io.containerd.cri.v1.images']
  snapshotter = %[6]q
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %[7]q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true    # runc may not lower the score in some virtual machines, and fails
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [%[8]q]
  conf_dir = %[9]q
  use_internal_loopback = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    BinaryName = %[10]q
    Root = %[11]q
    SystemdCgroup = false
`, root+"/containerd/root", root+"/containerd/state", c.containerdSocket(n), root+"/containerd.ttrpc", root+"/containerd/opt",
		snapshotter(root), ImagePause, c.binaries.Dir(), root+"/cni", c.binaries.Path("runc"), root+"/runc")
}

// snapshotter is one that works on the directory's file system: an overlay does not go on top of an overlay, which the
// root directory of a container often is.
func snapshotter(directory string) string {
	var stat unix.Statfs_t
	if err := unix.Statfs(directory, &stat); err == nil && stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}

// cniConfig names the network after the sandbox: the name is a part of file names in /var/lib/cni.
func (c *Cluster) cniConfig(n node) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}
]}
`, c.sandbox.Network(), c.nodePath(n, "cni-addresses"), n.pods())
}

func (c *Cluster) kubeletConfig(n node) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: %[2]s
failSwapOn: false
containerRuntimeEndpoint: unix://%[3]s
authentication: {x509: {clientCAFile: %[6]s/ca.crt}, anonymous: {enabled: false}, webhook: {enabled: true}}
authorization: {mode: Webhook}
tlsCertFile: %[6]s/%[7]s.crt
tlsPrivateKeyFile: %[6]s/%[7]s.key
podLogsDir: %[8]s
volumePluginDir: %[1]s/volumeplugins
clusterDomain: cluster.local
# There is no cluster DNS. Nothing listens at this address, so that a lookup fails at once instead of timing out.
clusterDNS: [%[4]s]
resolvConf: ""
# The disk is shared with whatever else the machine does.
localStorageCapacityIsolation: false
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
crashLoopBackOff: {maxContainerRestartPeriod: %[5]s}
`, c.nodePath(n), c.sandbox.Cgroup(int(n)), c.containerdSocket(n), n.ip(), c.options.MaxRestartDelay,
		c.sandbox.Path("pki"), n.component(Kubelet), c.podLogs(n))
}

func (c *Cluster) proxyConfig(n node) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %s}
mode: nftables
clusterCIDR: %s
hostnameOverride: %s
# The limits of connection tracking are the machine's, not the namespace's.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, c.sandbox.Path("kube-proxy.conf"), podNetwork, n.name())
}

func (c *Cluster) containerdSocket(n node) string { return c.nodePath(n, "containerd.sock") }

func (c *Cluster) writeConfigs() error {
	if err := os.Mkdir(c.sandbox.Path("etcd"), 0o700); err != nil {
		return err
	}
	for _, n := range c.nodes() {
		if err := c.writeNodeConfigs(n); err != nil {
			return err
		}
	}
	return nil
}

// writePKI makes the certificates, and a kubeconfig for every client.
func (c *Cluster) writePKI() error {
	directory := c.sandbox.Path("pki")
	if err := os.Mkdir(directory, 0o700); err != nil {
		return err
	}
	authority, err := pki.NewAuthority("podtoken-test-ca")
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.sandbox.Path("pki", "ca.crt"), authority.PEM, 0o600); err != nil {
		return err
	}
	private, public, err := pki.NewSigningKey()
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.sandbox.Path("pki", "sa.key"), private, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(c.sandbox.Path("pki", "sa.pub"), public, 0o600); err != nil {
		return err
	}
	outside := "https://127.0.0.1:" + c.port
	inside := "https://" + firstNode.ip() + ":" + apiPort
	for name, holder := range c.holders() {
		pair, err := authority.Issue(holder)
		if err != nil {
			return err
		}
		if err := pair.Write(directory, name); err != nil {
			return err
		}
		if err := writeKubeconfig(c.sandbox.Path(name+".conf"), inside, authority.PEM, pair); err != nil {
			return err
		}
		if name == "admin" {
			if err := writeKubeconfig(c.kubeconfig, outside, authority.PEM, pair); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeKubeconfig writes a file that is complete in itself, so that it can be copied elsewhere.
func writeKubeconfig(path, server string, authority []byte, pair pki.Pair) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["podtoken"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: authority}
	config.AuthInfos["podtoken"] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.Certificate, ClientKeyData: pair.Key}
	config.Contexts["podtoken"] = &clientcmdapi.Context{Cluster: "podtoken", AuthInfo: "podtoken"}
	config.CurrentContext = "podtoken"
	return clientcmd.WriteToFile(*config, path)
}
