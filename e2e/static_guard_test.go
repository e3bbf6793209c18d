package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/e2e/cluster"
)

// admissionConfiguration is the one in docs/security.md, with another directory.
const admissionConfiguration = `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: ValidatingAdmissionPolicy
    configuration:
      apiVersion: apiserver.config.k8s.io/v1
      kind: ValidatingAdmissionPolicyConfiguration
      staticManifestsDir: `

// manifests/guard-static.yaml and guard-strict-static.yaml, on the disk of an API server, guard as the policies in the cluster do, and cannot be
// seen or deleted through the API; and docs/audit-policy.yaml records what it did. In a cluster of its own, whose API server is started with
// both, and with a maximum that makes tokens of one year.
func TestStaticGuard(t *testing.T) {
	since(t, 36, "feature ManifestBasedAdmissionControlConfig")
	root, err := filepath.Abs("..")
	must(t, err, "finding the repository")
	directory := t.TempDir()
	manifests := filepath.Join(directory, "manifests")
	must(t, os.Mkdir(manifests, 0o700), "making a directory")
	for _, name := range []string{"guard-static.yaml", "guard-strict-static.yaml"} {
		guard, err := os.ReadFile("../manifests/" + name)
		must(t, err, "reading a guard")
		must(t, os.WriteFile(filepath.Join(manifests, name), guard, 0o600), "writing a guard")
	}
	file := filepath.Join(directory, "admission.yaml")
	must(t, os.WriteFile(file, []byte(admissionConfiguration+manifests+"\n"), 0o600), "writing the configuration")

	auditLog := filepath.Join(directory, "audit.log")
	arguments := []string{
		"--admission-control-config-file=" + file,
		"--audit-policy-file=" + filepath.Join(root, "docs", "audit-policy.yaml"), "--audit-log-path=" + auditLog, "--audit-log-mode=blocking",
		clampToYear,
	}
	if version(t).Minor == "1.36" {
		arguments = append(arguments, "--feature-gates=ManifestBasedAdmissionControlConfig=true") // alpha there
	}
	log := &strings.Builder{}
	c, err := cluster.Up(t.Context(), cluster.Options{
		Name: clusterName("-static"), RepoRoot: root, Log: log, APIServerArgs: arguments,
	})
	if err != nil {
		t.Fatalf("booting: %v\n%s", err, log)
	}
	t.Cleanup(func() {
		if err := c.Down(context.Background()); err != nil {
			t.Errorf("removing the cluster: %v", err)
		}
	})
	admin, err := kubernetes.NewForConfig(c.RESTConfig())
	must(t, err, "making a client")
	ctx, namespace, account := t.Context(), "kube-public", "app"

	_, err = admin.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	must(t, err, "creating a ServiceAccount")
	role := grantRole(account, nil)
	role.OwnerReferences = nil
	_, err = admin.RbacV1().Roles(namespace).Create(ctx, role, metav1.CreateOptions{})
	must(t, err, "creating the Role of a grant")
	binding := grantBinding(namespace, account, nil)
	binding.OwnerReferences = nil
	_, err = admin.RbacV1().RoleBindings(namespace).Create(ctx, binding, metav1.CreateOptions{})
	must(t, err, "creating the RoleBinding of a grant")
	pod, err := admin.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}, Spec: gated(account)}, metav1.CreateOptions{})
	must(t, err, "creating a pod")

	mint := func(c kubernetes.Interface, audience string, reference *authenticationv1.BoundObjectReference) (*authenticationv1.TokenRequest, error) {
		return c.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{audience}, ExpirationSeconds: ptr(int64(3600)), BoundObjectRef: reference,
		}}, metav1.CreateOptions{})
	}
	own := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	// The kubelet's part: an administrator is not guarded.
	credential, err := mint(admin, apiAudience, own)
	must(t, err, "getting the pod's credential")
	config := c.RESTConfig()
	config.BearerToken, config.TLSClientConfig.CertData, config.TLSClientConfig.KeyData = credential.Status.Token, nil, nil
	config.TLSClientConfig.CertFile, config.TLSClientConfig.KeyFile = "", ""
	app, err := kubernetes.NewForConfig(config)
	must(t, err, "making a client")

	if _, err := mint(app, "vault", own); err != nil {
		t.Errorf("the declared token: %v", err)
	}
	for name, attempt := range map[string]func() error{
		"an unbound token":       func() error { _, err := mint(app, "vault", nil); return err },
		"an undeclared audience": func() error { _, err := mint(app, "other", own); return err },
	} {
		if err := attempt(); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "guard.podtoken.dev.static.k8s.io") {
			t.Errorf("%s: got %v, want the refusal of the guard on disk", name, err)
		}
	}
	checkClampedLifetime(t, c.RESTConfig(), admin, pod)
	checkStrictGuard(t, c.RESTConfig(), admin, namespace)
	policies, err := admin.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(ctx, metav1.ListOptions{})
	must(t, err, "listing policies")
	if len(policies.Items) != 0 {
		t.Errorf("the guard can be seen, and deleted, through the API: %d policies", len(policies.Items))
	}
	checkAuditLog(t, auditLog, "guard.podtoken.dev.static.k8s.io", credential.Status.Token)
}

// checkStrictGuard: a Role written by hand lets no ServiceAccount request tokens for itself, unless it is exempted.
func checkStrictGuard(t *testing.T, config *rest.Config, admin kubernetes.Interface, namespace string) {
	t.Helper()
	const account = "operator"
	n := &testNamespace{world: &world{client: admin}, t: t, name: namespace}
	n.account(account)
	n.allow(account, "by-hand", rule("", "serviceaccounts/token", "create", account))
	as := rest.CopyConfig(config)
	as.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + namespace + ":" + account}
	operator, err := kubernetes.NewForConfig(as)
	must(t, err, "making a client")
	request := func(ctx context.Context) error {
		_, err := operator.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		return err
	}
	const policy = "guard-strict.podtoken.dev.static.k8s.io"
	eventually(t, pollShort, "the strict guard denies a Role written by hand", func(ctx context.Context) (bool, error) {
		err := request(ctx)
		return err != nil && strings.Contains(err.Error(), policy) && strings.Contains(err.Error(), "by a right that is not a grant of podtoken"), err
	})
	n.allow(account, "unguarded", rule("unguarded.podtoken.dev", "tokens", "mint", account))
	eventually(t, pollShort, "the exempted operator gets a token", func(ctx context.Context) (bool, error) {
		err := request(ctx)
		return err == nil, err
	})
}

// checkAuditLog: docs/audit-policy.yaml records who asked for which token, and no token.
func checkAuditLog(t *testing.T, file, policy, token string) {
	t.Helper()
	log, err := os.ReadFile(file)
	must(t, err, "reading the audit log")
	if strings.Contains(string(log), "eyJ") || strings.Contains(string(log), token[strings.LastIndex(token, ".")+1:]) {
		t.Error("the audit log contains a token")
	}
	type event struct {
		Level     string `json:"level"`
		ObjectRef struct {
			Resource, Subresource, Name string
		} `json:"objectRef"`
		ResponseStatus struct {
			Code int `json:"code"`
		} `json:"responseStatus"`
		Annotations map[string]string `json:"annotations"`
	}
	minted, refused := false, false
	for line := range strings.Lines(string(log)) {
		var e event
		must(t, json.Unmarshal([]byte(line), &e), "decoding the audit log")
		if e.ObjectRef.Resource != "serviceaccounts" || e.ObjectRef.Subresource != "token" || e.Annotations[policy+"/pod"] != "kube-public/pod" {
			continue
		}
		if e.Level != "Metadata" {
			t.Errorf("a token request is recorded with level %s", e.Level)
		}
		minted = minted || e.ResponseStatus.Code == 201 && e.Annotations[policy+"/audiences"] == "vault" && e.Annotations[policy+"/lifetime"] == "3600" &&
			strings.HasPrefix(e.Annotations["authentication.kubernetes.io/issued-credential-id"], "JTI=")
		refused = refused || e.ResponseStatus.Code == 403 && e.Annotations[policy+"/audiences"] == "other" &&
			strings.Contains(e.Annotations["validation.policy.admission.k8s.io/validation_failure"], policy)
	}
	if !minted || !refused {
		t.Errorf("the audit log tells of a minted token: %v, of a refused one: %v\n%s", minted, refused, log)
	}
}
