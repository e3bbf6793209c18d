package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar"
)

// The failures that the API server says nothing of: the sidecar finds them itself. They are explained like the others.

// Another webhook changes what is requested. The guard has nothing against it, because the pod declares that audience, too;
// but the token that is issued is not the one that was requested, and is not taken for it.
func TestAnotherTokenIsExplained(t *testing.T) {
	t.Parallel()
	needOwnCluster(t)
	n := newNamespace(t, nil)
	var asked, honest atomic.Bool
	n.mutate(tokenRequests, func(_ context.Context, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		asked.Store(true)
		var token authenticationv1.TokenRequest
		if json.Unmarshal(request.Object.Raw, &token) != nil || !slices.Equal(token.Spec.Audiences, []string{"vault"}) || honest.Load() {
			return nil
		}
		return &admissionv1.AdmissionResponse{
			Allowed: true, PatchType: ptr(admissionv1.PatchTypeJSONPatch),
			Patch: []byte(`[{"op": "replace", "path": "/spec/audiences", "value": ["billing"]}]`),
		}
	})
	n.untilAsked(asked.Load)
	n.create("pod", annotations("audience.vault", "vault", "audience.billing", "billing"), gatedSpec())
	n.explained("pod", sidecar.ClassAnswer, "Answer (HTTP 201): the token lacks an audience that was asked for")
	honest.Store(true)
	n.ready("pod")
	if got := claimsOf(t, n.token("pod", "app", api.DefaultMountPath+"/vault")).Audiences; !slices.Equal(got, []string{"vault"}) {
		t.Errorf("the token's audiences are %q", got)
	}
}

// The namespace's copy of the cluster's CA holds no certificate, or another's, as after a restore from a backup of another
// cluster. Kubernetes repairs it at once, unless that is denied.
func TestUnusableAuthorityIsExplained(t *testing.T) {
	t.Parallel()
	needOwnCluster(t)
	for name, row := range map[string]struct {
		certificates string
		class        sidecar.Class
		want         string
	}{
		"none":      {"no certificate", sidecar.ClassCredential, "Credential: reading the cluster's CA: no certificate in the file"},
		"another's": {foreignAuthority(t), sidecar.ClassNetwork, "Network: tls: failed to verify certificate: x509: certificate signed by unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNamespace(t, nil)
			var kept atomic.Bool
			n.validate(admissionregistrationv1.RuleWithOperations{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Update},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}, func(_ context.Context, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
				if request.UserInfo.Username != "system:serviceaccount:kube-system:root-ca-cert-publisher" {
					return nil
				}
				kept.Store(true)
				return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "not now"}}
			})
			original := n.setAuthority(row.certificates)
			eventually(t, pollShort, "the CA is not repaired", func(context.Context) (bool, error) {
				n.setAuthority(row.certificates)
				return kept.Load(), nil
			})
			n.create("pod", annotations("audience.vault", "vault"), gatedSpec())
			n.explained("pod", row.class, row.want)
			n.setAuthority(original)
			n.ready("pod")
		})
	}
}

// foreignAuthority is the certificate of an unknown CA.
func foreignAuthority(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err, "making a key")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another cluster"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err, "signing a certificate")
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// setAuthority writes the CA that pods of this namespace get, and returns what was there.
func (n *testNamespace) setAuthority(certificates string) (before string) {
	n.t.Helper()
	configMaps := n.client.CoreV1().ConfigMaps(n.name)
	eventually(n.t, pollShort, "the cluster's CA is published", func(ctx context.Context) (bool, error) {
		configMap, err := configMaps.Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if err == nil {
			before = configMap.Data[corev1.ServiceAccountRootCAKey]
		}
		return err == nil, err
	})
	patch, err := json.Marshal(map[string]any{"data": map[string]string{corev1.ServiceAccountRootCAKey: certificates}})
	must(n.t, err, "encoding a patch")
	_, err = configMaps.Patch(n.t.Context(), "kube-root-ca.crt", types.MergePatchType, patch, metav1.PatchOptions{})
	must(n.t, err, "writing the CA")
	return before
}

// A folder with something in it lies where the token's file belongs.
func TestUnwritableFileIsExplained(t *testing.T) {
	t.Parallel()
	needOwnCluster(t)
	n := newNamespace(t, nil)
	// Until the folder is there no token comes. The kubelet starts the container that makes it when the gate has given up once.
	refuser := &refuser{answers: map[string]refusal{serviceAccount: refusals["the API server serves nobody"]}}
	n.validate(tokenRequests, refuser.decide)
	n.untilAsked(refuser.asked.Load)
	n.create("pod", annotations("audience.vault", "vault"), meddlable(gatedSpec()))
	n.meddler("pod")
	n.meddle("pod", "full-folder", "vault")
	refuser.allow(serviceAccount)
	n.explained("pod", sidecar.ClassFile, `File: writing "vault": a folder with something in it is in the way: remove it`)
	n.meddle("pod", "delete", "vault")
	n.ready("pod")
}
