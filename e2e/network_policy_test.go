package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar"
)

// The chart's NetworkPolicies, and the one in the documents, on a cluster that enforces them. Webhook, controller and
// applications are on another node than the API server: traffic of a pod's own node is let through whatever policies say.
func TestNetworkPolicies(t *testing.T) {
	t.Parallel()
	w := emptyWorld(t, "netpol", func(o *cluster.Options) { o.Nodes, o.NetworkPolicies = 2, true })
	apiServer := w.addressOf(t, "node1")
	must(t, w.cluster.InstallChart(t.Context(), chartValues(
		"--set", "networkPolicy.enabled=true", "--set", "networkPolicy.apiServerCIDRs={"+apiServer+"/32}",
		"--set", "webhook.replicas=1", "--set", "webhook.nodeSelector.kubernetes\\.io/hostname=node2",
		"--set", "controller.replicas=1", "--set", "controller.nodeSelector.kubernetes\\.io/hostname=node2",
	)...), "installing podtoken")
	n := w.newNamespace(t, allowedPrefix, nil)
	n.create("pod", annotations("audience.vault", "vault", "metrics-port", metricsPort), onSecondNode())
	n.ready("pod")
	n.enforces()

	t.Run("installation", func(t *testing.T) { n.in(t).installationIsWalledIn(apiServer) })
	t.Run("namespace that denies egress", func(t *testing.T) { n.in(t).getsOut() })
	t.Run("helm test", func(t *testing.T) { w.helm(t, "test", cluster.Release, "--timeout", "2m") })
	t.Run("addresses that are not the API server's", func(t *testing.T) { n.in(t).wrongAddresses() })
	t.Run("uninstallation", func(t *testing.T) {
		w.helm(t, "uninstall", cluster.Release, "--wait", "--timeout", "3m")
		w.leftovers(t, certificateSecrets...)
	})
}

func onSecondNode() corev1.PodSpec {
	spec := podSpec()
	spec.NodeSelector = map[string]string{corev1.LabelHostname: "node2"}
	return spec
}

func (w *world) addressOf(t *testing.T, node string) string {
	t.Helper()
	got, err := w.client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
	must(t, err, "reading node %q", node)
	for _, address := range got.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return address.Address
		}
	}
	t.Fatalf("node %q has no address", node)
	return ""
}

// connector is a container that is added to pods to see whom they reach.
const connector = "connector"

func (n *testNamespace) addConnector(pod string) {
	n.t.Helper()
	c := container(connector, probePath, "sleep")
	c.Image = n.probeImage
	n.addEphemeral(pod, c)
	eventually(n.t, time.Minute, "the connector runs", func(context.Context) (bool, error) {
		_, err := n.exec(pod, connector, probePath, "env")
		return err == nil, err
	})
}

// reaches makes sure that a pod reaches an address, or does not. What a policy says takes a moment to come into force.
func (n *testNamespace) reaches(pod, address string, want bool) {
	n.t.Helper()
	eventually(n.t, time.Minute, fmt.Sprintf("that pod %s reaches %s is %t", pod, address, want), func(context.Context) (bool, error) {
		_, err := n.exec(pod, connector, probePath, "connect", address)
		if err == nil {
			err = errors.New("it does")
			return want, err
		}
		return !want, err
	})
}

// deny denies everything that goes out of the namespace's pods.
func (n *testNamespace) deny() {
	n.t.Helper()
	_, err := n.client.NetworkingV1().NetworkPolicies(n.name).Create(n.t.Context(), &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "deny"},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}},
	}, metav1.CreateOptions{})
	must(n.t, err, "creating a NetworkPolicy")
}

// enforces keeps the test honest: policies are in force, and without one a pod reaches everything that it is to reach here.
func (n *testNamespace) enforces() {
	n.t.Helper()
	n.addConnector("pod")
	server := n.inRelease().podOf("webhook").Status.PodIP + ":8080"
	n.reaches("pod", server, true)
	n.deny()
	n.reaches("pod", server, false)
	must(n.t, n.client.NetworkingV1().NetworkPolicies(n.name).Delete(n.t.Context(), "deny", metav1.DeleteOptions{}), "deleting a NetworkPolicy")
	n.reaches("pod", server, true)
}

// inRelease is the namespace that podtoken is in.
func (n *testNamespace) inRelease() *testNamespace {
	return &testNamespace{world: n.world, t: n.t, name: cluster.Namespace}
}

// podOf returns a ready pod of a component that is not being deleted.
func (n *testNamespace) podOf(component string) (found *corev1.Pod) {
	n.t.Helper()
	eventually(n.t, 2*time.Minute, "a pod of the "+component+" is ready", func(ctx context.Context) (bool, error) {
		list, err := n.client.CoreV1().Pods(n.name).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
		if err != nil {
			return false, err
		}
		for i := range list.Items {
			pod := &list.Items[i]
			if pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}) {
				found = pod
			}
		}
		return found != nil, nil
	})
	return found
}

// installationIsWalledIn looks from inside and from outside at what docs/security.md says of the chart's policies.
func (n *testNamespace) installationIsWalledIn(apiServer string) {
	release := n.inRelease()
	webhook, controller, application := release.podOf("webhook"), release.podOf("controller"), n.ready("pod")
	n.reaches("pod", webhook.Status.PodIP+":8080", true)
	n.reaches("pod", webhook.Status.PodIP+":9443", false) // it has none of the API server's addresses
	n.reaches("pod", controller.Status.PodIP+":8080", true)
	n.reaches("pod", application.Status.PodIP+":"+metricsPort, true)

	service, err := n.client.CoreV1().Services(metav1.NamespaceDefault).Get(n.t.Context(), "kubernetes", metav1.GetOptions{})
	must(n.t, err, "reading the API server's Service")
	for _, pod := range []*corev1.Pod{webhook, controller} {
		release.addConnector(pod.Name)
		release.reaches(pod.Name, application.Status.PodIP+":"+metricsPort, false)
	}
	release.reaches(webhook.Name, service.Spec.ClusterIP+":443", false)
	release.reaches(controller.Name, service.Spec.ClusterIP+":443", true)
	release.reaches(webhook.Name, apiServer+":6443", false)
	release.reaches(controller.Name, apiServer+":10250", false) // the kubelet of the API server's node
}

// getsOut has a pod in a namespace that lets nothing out: the sidecar says why there is no token, and gets it when the policy in
// the documents is there.
func (n *testNamespace) getsOut() {
	other := n.newNamespace(n.t, allowedPrefix, nil)
	other.deny()
	// A firewall hears of a pod when it runs: this one must not have its token by then.
	other.block(serviceAccount)
	other.create("pod", annotations("audience.vault", "vault"), onSecondNode())
	other.until("pod", "has given up waiting for its token, with a failure of class Network", func(p *corev1.Pod) bool {
		s := p.Status.InitContainerStatuses
		return len(s) > 0 && s[0].LastTerminationState.Terminated != nil &&
			strings.Contains(s[0].LastTerminationState.Terminated.Message, string(sidecar.ClassNetwork)+": ")
	})
	other.unblock(serviceAccount)
	text, err := os.ReadFile(filepath.Join("..", "docs", "networkpolicy.yaml"))
	must(n.t, err, "reading the documents' NetworkPolicy")
	policy := strings.ReplaceAll(string(text), "your-namespace", other.name)
	_, err = n.cluster.Kubectl(n.t.Context(), strings.NewReader(policy), "apply", "--filename=-")
	must(n.t, err, "applying the documents' NetworkPolicy")
	other.ready("pod")
	other.addConnector("pod")
	other.reaches("pod", n.inRelease().podOf("controller").Status.PodIP+":8080", false)
}

// wrongAddresses has the webhook closed to the API server: annotated pods are refused, none is created without its token.
func (n *testNamespace) wrongAddresses() {
	release := n.inRelease()
	policies := n.client.NetworkingV1().NetworkPolicies(release.name)
	_, err := policies.Patch(n.t.Context(), webhookDeployment, types.JSONPatchType,
		[]byte(`[{"op": "replace", "path": "/spec/ingress/0/from/0/ipBlock/cidr", "value": "192.0.2.1/32"}]`), metav1.PatchOptions{})
	must(n.t, err, "changing the webhook's NetworkPolicy")
	// Connections that there are stay.
	release.delete(release.podOf("webhook").Name)
	release.podOf("webhook")
	eventually(n.t, time.Minute, "the API server does not reach the webhook", func(context.Context) (bool, error) {
		err := n.tryDryRun(annotations("audience.vault", "vault"))
		return apierrors.IsInternalError(err) && strings.Contains(err.Error(), "failed calling webhook"), err
	})
	_, err = n.tryCreate("late", annotations("audience.vault", "vault"), podSpec())
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "pods.podtoken.dev") {
		n.t.Errorf("a pod that asks for tokens is not refused in the webhook's name: %v", err)
	}
	if _, err := n.tryCreate("plain", nil, podSpec()); err != nil {
		n.t.Errorf("a pod that asks for nothing is refused: %v", err)
	}
	if token := n.token("pod", "app", api.DefaultMountPath+"/vault"); token == "" {
		n.t.Error("the pod that runs has no token")
	}
}
