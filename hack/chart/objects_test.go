package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// certificate and issuer are the parts of cert-manager's types that the chart uses (cert-manager.io/v1,
// github.com/cert-manager/cert-manager@v1.21.2/pkg/apis/certmanager/v1): strict decoding refuses any other field.
type certificate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		SecretName           string          `json:"secretName"`
		IsCA                 bool            `json:"isCA"`
		CommonName           string          `json:"commonName"`
		DNSNames             []string        `json:"dnsNames"`
		Duration             metav1.Duration `json:"duration"`
		RenewBefore          metav1.Duration `json:"renewBefore"`
		RevisionHistoryLimit int32           `json:"revisionHistoryLimit"`
		PrivateKey           privateKey      `json:"privateKey"`
		Usages               []string        `json:"usages"`
		IssuerRef            issuerRef       `json:"issuerRef"`
	} `json:"spec"`
}

type privateKey struct {
	Algorithm      string `json:"algorithm"`
	Size           int    `json:"size"`
	RotationPolicy string `json:"rotationPolicy"`
}

type issuerRef struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`
	Group string `json:"group"`
}

type issuer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		SelfSigned *struct{} `json:"selfSigned"`
		CA         *struct {
			SecretName string `json:"secretName"`
		} `json:"ca"`
	} `json:"spec"`
}

// monitor is what the chart uses of ServiceMonitor and PodMonitor (monitoring.coreos.com/v1). hack/alerts holds them and the
// PrometheusRule against the operator's own types.
type monitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		NamespaceSelector struct {
			Any bool `json:"any"`
		} `json:"namespaceSelector"`
		Selector            metav1.LabelSelector `json:"selector"`
		Endpoints           []endpoint           `json:"endpoints"`
		PodMetricsEndpoints []endpoint           `json:"podMetricsEndpoints"`

		SampleLimit           int64  `json:"sampleLimit"`
		LabelLimit            int64  `json:"labelLimit"`
		LabelNameLengthLimit  int64  `json:"labelNameLengthLimit"`
		LabelValueLengthLimit int64  `json:"labelValueLengthLimit"`
		BodySizeLimit         string `json:"bodySizeLimit"`
	} `json:"spec"`
}

type endpoint struct {
	Port          string `json:"port"`
	Path          string `json:"path"`
	Scheme        string `json:"scheme"`
	Interval      string `json:"interval"`
	ScrapeTimeout string `json:"scrapeTimeout"`
	Relabelings   []struct {
		TargetLabel string `json:"targetLabel"`
		Replacement string `json:"replacement"`
	} `json:"relabelings"`
	HonorLabels       bool `json:"honorLabels"`
	MetricRelabelings []struct {
		Action       string   `json:"action"`
		SourceLabels []string `json:"sourceLabels"`
		Regex        string   `json:"regex"`
	} `json:"metricRelabelings"`
}

type prometheusRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              map[string]any `json:"spec"`
}

// objects are the decoded documents of one file, in its order.
type objects []metav1.Object

// kinds has every kind that the chart and the manifests may contain.
var kinds = map[string]func() metav1.Object{
	"v1/Namespace":                       func() metav1.Object { return &corev1.Namespace{} },
	"v1/Pod":                             func() metav1.Object { return &corev1.Pod{} },
	"v1/ServiceAccount":                  func() metav1.Object { return &corev1.ServiceAccount{} },
	"v1/Secret":                          func() metav1.Object { return &corev1.Secret{} },
	"v1/Service":                         func() metav1.Object { return &corev1.Service{} },
	"v1/ConfigMap":                       func() metav1.Object { return &corev1.ConfigMap{} },
	"apps/v1/Deployment":                 func() metav1.Object { return &appsv1.Deployment{} },
	"batch/v1/Job":                       func() metav1.Object { return &batchv1.Job{} },
	"batch/v1/CronJob":                   func() metav1.Object { return &batchv1.CronJob{} },
	"policy/v1/PodDisruptionBudget":      func() metav1.Object { return &policyv1.PodDisruptionBudget{} },
	"networking.k8s.io/v1/NetworkPolicy": func() metav1.Object { return &networkingv1.NetworkPolicy{} },
	"flowcontrol.apiserver.k8s.io/v1/FlowSchema":                       func() metav1.Object { return &flowcontrolv1.FlowSchema{} },
	"flowcontrol.apiserver.k8s.io/v1/PriorityLevelConfiguration":       func() metav1.Object { return &flowcontrolv1.PriorityLevelConfiguration{} },
	"rbac.authorization.k8s.io/v1/Role":                                func() metav1.Object { return &rbacv1.Role{} },
	"rbac.authorization.k8s.io/v1/RoleBinding":                         func() metav1.Object { return &rbacv1.RoleBinding{} },
	"rbac.authorization.k8s.io/v1/ClusterRole":                         func() metav1.Object { return &rbacv1.ClusterRole{} },
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding":                  func() metav1.Object { return &rbacv1.ClusterRoleBinding{} },
	"admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy":        func() metav1.Object { return &admissionregistrationv1.ValidatingAdmissionPolicy{} },
	"admissionregistration.k8s.io/v1/ValidatingAdmissionPolicyBinding": func() metav1.Object { return &admissionregistrationv1.ValidatingAdmissionPolicyBinding{} },
	"admissionregistration.k8s.io/v1/MutatingWebhookConfiguration":     func() metav1.Object { return &admissionregistrationv1.MutatingWebhookConfiguration{} },
	"cert-manager.io/v1/Certificate":                                   func() metav1.Object { return &certificate{} },
	"cert-manager.io/v1/Issuer":                                        func() metav1.Object { return &issuer{} },
	"monitoring.coreos.com/v1/ServiceMonitor":                          func() metav1.Object { return &monitor{} },
	"monitoring.coreos.com/v1/PodMonitor":                              func() metav1.Object { return &monitor{} },
	"monitoring.coreos.com/v1/PrometheusRule":                          func() metav1.Object { return &prometheusRule{} },
}

// decode reads a file of YAML documents strictly: a field that its kind does not have is an error.
func decode(t *testing.T, path string) objects {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var decoded objects
	for _, document := range documents(string(content)) {
		object, err := decodeOne(document)
		if err != nil {
			t.Fatalf("%s: %v\n%s", path, err, document)
		}
		decoded = append(decoded, object)
	}
	if len(decoded) == 0 {
		t.Fatalf("%s has no objects", path)
	}
	return decoded
}

// documents splits at the separators and leaves out documents that have comments only.
func documents(content string) []string {
	var split []string
	for document := range strings.SplitSeq("\n"+content, "\n---\n") {
		for line := range strings.SplitSeq(document, "\n") {
			if line != "" && !strings.HasPrefix(line, "#") {
				split = append(split, document)
				break
			}
		}
	}
	return split
}

func decodeOne(document string) (metav1.Object, error) {
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
		return nil, err
	}
	kind, known := kinds[meta.APIVersion+"/"+meta.Kind]
	if !known {
		return nil, fmt.Errorf("unexpected kind %s/%s", meta.APIVersion, meta.Kind)
	}
	object := kind()
	if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
		return nil, err
	}
	return object, nil
}

// all returns the objects of one type.
func all[T metav1.Object](from objects) []T {
	var found []T
	for _, object := range from {
		if match, ok := object.(T); ok {
			found = append(found, match)
		}
	}
	return found
}

// one returns the only object of its type.
func one[T metav1.Object](t *testing.T, from objects) T {
	t.Helper()
	found := all[T](from)
	if len(found) != 1 {
		t.Fatalf("got %d objects of type %T, want 1", len(found), *new(T))
	}
	return found[0]
}

// named returns the object of a type and name.
func named[T metav1.Object](t *testing.T, from objects, name string) T {
	t.Helper()
	for _, object := range all[T](from) {
		if object.GetName() == name {
			return object
		}
	}
	t.Fatalf("there is no %T %q", *new(T), name)
	panic("unreachable")
}

// podTemplates returns every pod or pod template, with its metadata.
func podTemplates(from objects) []corev1.PodTemplateSpec {
	var templates []corev1.PodTemplateSpec
	for _, object := range from {
		switch o := object.(type) {
		case *corev1.Pod:
			templates = append(templates, corev1.PodTemplateSpec{ObjectMeta: o.ObjectMeta, Spec: o.Spec})
		case *appsv1.Deployment:
			templates = append(templates, o.Spec.Template)
		case *batchv1.Job:
			templates = append(templates, o.Spec.Template)
		case *batchv1.CronJob:
			templates = append(templates, o.Spec.JobTemplate.Spec.Template)
		}
	}
	return templates
}

// eachFile runs a subtest per file that one of the patterns (below the repository's root) matches.
func eachFile(t *testing.T, check func(t *testing.T, path string), patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		if len(paths) == 0 {
			t.Errorf("no file matches %s", pattern)
		}
		for _, path := range paths {
			t.Run(filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), func(t *testing.T) { check(t, path) })
		}
	}
}
