package e2e

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// decision answers an admission review; nil allows. The context ends when the API server waits no longer.
type decision func(context.Context, *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse

// tokenRequests is the rule that the tests' webhooks have.
var tokenRequests = admissionregistrationv1.RuleWithOperations{
	Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
	Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"serviceaccounts/token"}},
}

// validate has this process decide about what is done in the namespace. It takes the API server a moment to know.
func (n *testNamespace) validate(rule admissionregistrationv1.RuleWithOperations, decide decision) {
	n.t.Helper()
	configurations := n.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := configurations.Create(n.t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: n.name},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "validate.podtoken.test", ClientConfig: n.serveAdmission(decide), NamespaceSelector: n.selector(),
			Rules:         []admissionregistrationv1.RuleWithOperations{rule},
			FailurePolicy: ptr(admissionregistrationv1.Fail), SideEffects: ptr(admissionregistrationv1.SideEffectClassNone),
			TimeoutSeconds: ptr(int32(30)), AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	must(n.t, err, "registering a validating webhook")
	n.t.Cleanup(func() { _ = configurations.Delete(context.Background(), n.name, metav1.DeleteOptions{}) })
}

// mutate has this process change what is created in the namespace.
func (n *testNamespace) mutate(rule admissionregistrationv1.RuleWithOperations, decide decision) {
	n.t.Helper()
	n.mutateAs(n.name, rule, decide)
}

// mutateAs does it under the name of a configuration: API servers ask in the order of these names.
func (n *testNamespace) mutateAs(name string, rule admissionregistrationv1.RuleWithOperations, decide decision) {
	n.t.Helper()
	configurations := n.client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	_, err := configurations.Create(n.t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "mutate.podtoken.test", ClientConfig: n.serveAdmission(decide), NamespaceSelector: n.selector(),
			Rules:         []admissionregistrationv1.RuleWithOperations{rule},
			FailurePolicy: ptr(admissionregistrationv1.Fail), SideEffects: ptr(admissionregistrationv1.SideEffectClassNone),
			TimeoutSeconds: ptr(int32(30)), AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	must(n.t, err, "registering a mutating webhook")
	n.t.Cleanup(func() { _ = configurations.Delete(context.Background(), name, metav1.DeleteOptions{}) })
}

// mutatePods has this process change the namespace's Pods under the name of a configuration, and returns when it does.
func (n *testNamespace) mutatePods(name string, change func(*corev1.Pod) (patch []map[string]any)) {
	n.t.Helper()
	var asked atomic.Int64
	n.mutateAs(name, admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
	}, func(_ context.Context, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		asked.Add(1)
		var pod corev1.Pod
		if json.Unmarshal(request.Object.Raw, &pod) != nil {
			return nil
		}
		encoded, err := json.Marshal(change(&pod))
		if err != nil {
			return nil
		}
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: ptr(admissionv1.PatchTypeJSONPatch), Patch: encoded}
	})
	// The API server hears of it a moment later.
	eventually(n.t, pollShort, "the other webhook is called", func(ctx context.Context) (bool, error) {
		_, err := n.client.CoreV1().Pods(n.name).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "dry-run"}, Spec: podSpec()},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return asked.Load() > 0, err
	})
}

// selector selects this namespace and no other.
func (n *testNamespace) selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": n.name}}
}

// serveAdmission serves out of this process, at an address inside the cluster's network, which is the API server's too.
func (n *testNamespace) serveAdmission(decide decision) admissionregistrationv1.WebhookClientConfig {
	n.t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err != nil || review.Request == nil {
			http.Error(w, "not an AdmissionReview", http.StatusBadRequest)
			return
		}
		response := decide(r.Context(), review.Request)
		if response == nil {
			response = &admissionv1.AdmissionResponse{Allowed: true}
		}
		response.UID = review.Request.UID
		review.Request, review.Response = nil, response
		_ = json.NewEncoder(w).Encode(review)
	}))
	_ = server.Listener.Close() // That one is on the host.
	err := n.cluster.InNamespace(func() (err error) {
		server.Listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	must(n.t, err, "listening inside the cluster's network")
	server.StartTLS()
	n.t.Cleanup(func() {
		server.CloseClientConnections() // Nobody waits for decisions that never come.
		server.Close()
	})
	return admissionregistrationv1.WebhookClientConfig{
		URL:      ptr("https://" + server.Listener.Addr().String() + "/"),
		CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	}
}

// untilAsked asks for a token of the tests' ServiceAccount, which is never kept, until the API server asks the webhook.
func (n *testNamespace) untilAsked(asked func() bool) {
	n.t.Helper()
	eventually(n.t, pollShort, "the API server asks the test's webhook", func(ctx context.Context) (bool, error) {
		_, err := n.client.CoreV1().ServiceAccounts(n.name).CreateToken(ctx, serviceAccount, &authenticationv1.TokenRequest{},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return asked(), err
	})
}

// needOwnCluster skips a test whose webhook another cluster's API server would not reach.
func needOwnCluster(t *testing.T) {
	t.Helper()
	if !testCluster.Owned() {
		t.Skip("a cluster that is not ours does not reach this process")
	}
}
