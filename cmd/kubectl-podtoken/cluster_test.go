package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	apiversion "k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
)

// base is what all cases have: the installation as the chart renders it, and an API server that answers a few questions.
type base struct {
	objects   []runtime.Object
	version   string
	authority []byte
	apiServer *httptest.Server
	webhook   *httptest.Server
	// flags of the API server in one case, as "name=value" or as an HTTP status.
	flags string
}

func installed(t *testing.T) *base {
	t.Helper()
	b := &base{}
	content, err := os.ReadFile("../../manifests/install.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b.objects = append(decode(t, content), decode(t, []byte(running))...)
	b.webhook = webhookServer(t, &b.authority)
	b.apiServer = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", now.Format(http.TimeFormat))
		if r.URL.Path == "/flagz" {
			b.serveFlags(w, r)
		}
	}))
	t.Cleanup(b.apiServer.Close)
	for _, object := range b.objects {
		switch object := object.(type) {
		case *admissionv1.MutatingWebhookConfiguration:
			object.Webhooks[0].ClientConfig.CABundle = b.authority
		case *corev1.ConfigMap:
			b.version = object.Labels["app.kubernetes.io/version"]
		}
	}
	if len(b.objects) < 20 || b.version == "" {
		t.Fatalf("%d objects of version %q", len(b.objects), b.version)
	}
	return b
}

// serveFlags answers as an API server of Kubernetes 1.36 and later does: a client that names no form gets text for people.
func (b *base) serveFlags(w http.ResponseWriter, r *http.Request) {
	if status, err := strconv.Atoi(strings.TrimSpace(b.flags)); err == nil {
		w.WriteHeader(status)
		return
	}
	if r.Header.Get("Accept") != "application/json;v=v1beta1;g=config.k8s.io;as=Flagz" {
		_, _ = io.WriteString(w, "apiserver flagz")
		return
	}
	flags := map[string]string{"service-account-max-token-expiration": "0s", "service-account-extend-token-expiration": "true"}
	for line := range strings.FieldsSeq(b.flags) {
		name, value, _ := strings.Cut(line, "=")
		flags[name] = value
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Flagz", "apiVersion": "config.k8s.io/v1beta1", "flags": flags})
}

// provenMetrics are those of a controller whose guard every API server enforces.
const provenMetrics = `# TYPE podtoken_guard_present gauge
podtoken_guard_present 1
podtoken_guard_api_servers{state="Enforcing"} 2
podtoken_guard_api_servers{state="NotEnforcing"} 0
podtoken_guard_api_servers{state="Unknown"} 0
`

// running is what is in the cluster when the installation runs.
const running = `
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {kubernetes.io/metadata.name: default}}
---
apiVersion: v1
kind: Namespace
metadata: {name: payments, labels: {kubernetes.io/metadata.name: payments}}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system, labels: {kubernetes.io/metadata.name: kube-system}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: api, namespace: payments}
---
apiVersion: v1
kind: Pod
metadata:
  name: podtoken-webhook-1
  namespace: podtoken-system
  labels: {app.kubernetes.io/name: podtoken, app.kubernetes.io/component: webhook}
status: {phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: podtoken-controller, namespace: podtoken-system}
spec: {holderIdentity: podtoken-controller-1_0a1b, renewTime: "2026-06-01T11:59:58.000000Z"}
`

// decode returns the objects of a YAML stream; those of kinds that are not Kubernetes' own are left out.
func decode(t *testing.T, content []byte) []runtime.Object {
	t.Helper()
	var objects []runtime.Object
	for stream := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content))); ; {
		document, err := stream.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		switch {
		case runtime.IsNotRegisteredError(err) || runtime.IsMissingKind(err):
		case err != nil:
			t.Fatalf("%v in:\n%s", err, document)
		default:
			objects = append(objects, object)
		}
	}
}

func key(object runtime.Object) string {
	accessor, err := meta.Accessor(object)
	if err != nil {
		panic(err)
	}
	return object.GetObjectKind().GroupVersionKind().Kind + "/" + accessor.GetName()
}

// cluster is the cluster of one case.
func (b *base) cluster(t *testing.T, given map[string]string, namespace string) *plugin.Cluster {
	t.Helper()
	b.flags = given[sectionFlags]
	own := decode(t, []byte(given[sectionCluster]))
	without := strings.Fields(given[sectionWithout])
	for _, object := range own {
		without = append(without, key(object))
	}
	objects := slices.Clone(own)
	for _, object := range b.objects {
		_, isNamespace := object.(*corev1.Namespace)
		if !slices.Contains(without, key(object)) && (isNamespace || !slices.Contains(without, "*")) {
			objects = append(objects, object)
		}
	}
	client := fake.NewClientset(objects...)
	client.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &apiversion.Info{GitVersion: "v1.37.2"}
	client.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		if slices.Contains(without, "reviews") {
			return true, nil, apierrors.NewForbidden(authorizationv1.Resource("subjectaccessreviews"), "", errors.New("no"))
		}
		review.Status.Allowed = allowed(objects, review.Spec)
		if slices.Contains(without, "mark") && review.Spec.ResourceAttributes.Group == api.RBACGroup {
			review.Status = authorizationv1.SubjectAccessReviewStatus{Denied: true, Reason: "unknown group"}
		}
		return true, review, nil
	})
	client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		return mint(objects, action)
	})
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		pod := action.(clienttesting.CreateAction).GetObject().(*corev1.Pod).DeepCopy()
		if slices.Contains(without, "answers") {
			return true, nil, apierrors.NewInternalError(errors.New(`failed calling webhook "pods.podtoken.dev": no endpoints available`))
		}
		pod.Labels = map[string]string{api.LabelInjected: "true"}
		return true, pod, nil
	})
	return &plugin.Cluster{
		Config: &rest.Config{Host: b.apiServer.URL, TLSClientConfig: rest.TLSClientConfig{CAData: b.serverCA()}}, Client: client, Namespace: namespace,
		Object: func(_ context.Context, argument string) (runtime.Object, error) {
			return find(objects, namespace, argument)
		},
		Raw: func(_ context.Context, path string) ([]byte, error) {
			return []byte(`{"issuer": "https://kubernetes.default.svc.cluster.local", "jwks_uri": "https://10.0.0.1:6443/openid/v1/jwks"}`), nil
		},
		Exec: func(_ context.Context, _, pod, container string, command ...string) (string, string, error) {
			if container != "podtoken" || !slices.Equal(command, []string{"/podtoken-sidecar", "check", "--output=json"}) {
				return "", "", fmt.Errorf("unexpected command %q in container %q", command, container)
			}
			answer, ok := given[prefixExec+pod]
			if !ok {
				return "", "flag provided but not defined: -output", errors.New("command terminated with exit code 2")
			}
			return answer, "", nil
		},
		Forward: func(_ context.Context, _, pod string, _ int) (string, func(), error) {
			if strings.HasPrefix(pod, "podtoken-controller-") {
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, cmp.Or(given[sectionMetrics], provenMetrics))
				}))
				return server.Listener.Addr().String(), server.Close, nil
			}
			return b.webhook.Listener.Addr().String(), func() {}, nil
		},
	}
}

// serverCA is the PEM of the API server's.
func (b *base) serverCA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.apiServer.Certificate().Raw})
}

// find is the object of an argument: POD, or TYPE/NAME.
func find(objects []runtime.Object, namespace, argument string) (runtime.Object, error) {
	kind, name, ok := strings.Cut(argument, "/")
	if !ok {
		kind, name = "pod", argument
	}
	kind, _, _ = strings.Cut(kind, ".")
	for _, object := range objects {
		accessor, err := meta.Accessor(object)
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(object.GetObjectKind().GroupVersionKind().Kind, kind) && accessor.GetName() == name && accessor.GetNamespace() == namespace {
			return object, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: kind + "s"}, name)
}

// allowed is RBAC for Roles that are named after their ServiceAccount.
func allowed(objects []runtime.Object, spec authorizationv1.SubjectAccessReviewSpec) bool {
	asked := spec.ResourceAttributes
	if spec.User == "system:serviceaccount:podtoken-system:podtoken-controller" {
		return true // by its ClusterRole
	}
	account := spec.User[strings.LastIndex(spec.User, ":")+1:]
	resource := asked.Resource
	if asked.Subresource != "" {
		resource += "/" + asked.Subresource
	}
	for _, object := range objects {
		role, ok := object.(*rbacv1.Role)
		if !ok || role.Namespace != asked.Namespace || role.Name != api.GrantPrefix+account {
			continue
		}
		for _, rule := range role.Rules {
			if slices.Contains(rule.APIGroups, asked.Group) && slices.Contains(rule.Resources, resource) &&
				slices.Contains(rule.Verbs, asked.Verb) && slices.Contains(rule.ResourceNames, asked.Name) {
				return true
			}
		}
	}
	return false
}

// mint answers a TokenRequest.
func mint(objects []runtime.Object, action clienttesting.Action) (bool, runtime.Object, error) {
	create := action.(clienttesting.CreateActionImpl)
	if create.Name == "missing" {
		return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, create.Name)
	}
	request := create.GetObject().(*authenticationv1.TokenRequest)
	seconds := *request.Spec.ExpirationSeconds
	if create.Name == "generous" {
		seconds *= 100
	}
	audiences := request.Spec.Audiences
	if len(audiences) == 0 {
		audiences = []string{"https://kubernetes.default.svc.cluster.local"}
	}
	claims := jwt.Claims{Audiences: audiences, IssuedAt: now, Expires: now.Add(time.Duration(seconds) * time.Second), ServiceAccountName: create.Name}
	if request.Spec.BoundObjectRef != nil {
		claims.PodName, claims.PodUID = request.Spec.BoundObjectRef.Name, string(request.Spec.BoundObjectRef.UID)
	}
	request.Status = authenticationv1.TokenRequestStatus{Token: jwttest.Encode(claims), ExpirationTimestamp: metav1.NewTime(claims.Expires)}
	return true, request, nil
}

// webhookServer serves with a certificate for the webhook's Service, valid for a month from now on.
func webhookServer(t *testing.T, authority *[]byte) *httptest.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the CA"}, DNSNames: []string{"podtoken-webhook.podtoken-system.svc"},
		NotBefore: now.AddDate(0, -1, 0), NotAfter: now.AddDate(0, 1, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	*authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // some cases refuse its certificate
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}
