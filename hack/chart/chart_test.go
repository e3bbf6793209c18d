package main

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/podtoken/podtoken/pkg/mutate"
)

const (
	golden  = "charts/podtoken/golden/*.yaml"
	install = "manifests/install.yaml"
)

// TestGoldenPerValuesFile finds a values file without a render, and a render without its values file.
func TestGoldenPerValuesFile(t *testing.T) {
	names := func(pattern, suffix string) []string {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for i, path := range paths {
			paths[i] = strings.TrimSuffix(filepath.Base(path), suffix)
		}
		return paths
	}
	want := names("charts/podtoken/ci/*-values.yaml", "-values.yaml")
	if got := names(golden, ".yaml"); len(want) < 2 || !slices.Equal(got, want) {
		t.Errorf("golden files for %q, values files for %q: run `make generate`", got, want)
	}
}

// TestMutatingWebhookConfiguration compares the whole object: each of its fields decides whose pods an outage hurts.
func TestMutatingWebhookConfiguration(t *testing.T) {
	want := admissionregistrationv1.MutatingWebhook{
		Name:                    "pods.podtoken.dev",
		AdmissionReviewVersions: []string{"v1"},
		ClientConfig: admissionregistrationv1.WebhookClientConfig{
			Service: &admissionregistrationv1.ServiceReference{
				Name: "podtoken-webhook", Namespace: "podtoken-system", Path: new("/mutate"), Port: new(int32(443)),
			},
		},
		Rules: []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{"CREATE"},
			Rule: admissionregistrationv1.Rule{
				APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"},
				Scope: new(admissionregistrationv1.NamespacedScope),
			},
		}},
		MatchPolicy:        new(admissionregistrationv1.Equivalent),
		FailurePolicy:      new(admissionregistrationv1.Fail),
		ReinvocationPolicy: new(admissionregistrationv1.IfNeededReinvocationPolicy),
		SideEffects:        new(admissionregistrationv1.SideEffectClassNone),
		TimeoutSeconds:     new(int32(5)),
		NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{
			Key: "kubernetes.io/metadata.name", Operator: metav1.LabelSelectorOpNotIn,
			Values: []string{"kube-system", "kube-node-lease", "podtoken-system"},
		}}},
		ObjectSelector: &metav1.LabelSelector{},
		MatchConditions: []admissionregistrationv1.MatchCondition{
			{
				Name: "asks-for-tokens",
				// What it matches and costs is tested in hack/policies.
				Expression: "size(object.metadata.?annotations.orValue({})) <= 64 " +
					"? object.metadata.?annotations.orValue({}).exists(key, key.lowerAscii().startsWith('podtoken.dev/') && key != 'podtoken.dev/status') " +
					`: ['%s'.format([object.metadata.annotations]).replace('"podtoken.dev/status":', '"":').lowerAscii()].exists(text, ` +
					`text.startsWith('{"podtoken.dev/') || text.contains(' "podtoken.dev/'))`,
			},
			{
				Name:       "not-a-mirror-pod",
				Expression: "!('kubernetes.io/config.mirror' in object.metadata.?annotations.orValue({}))",
			},
			{
				Name:       "not-switched-off",
				Expression: "object.metadata.?annotations[?'podtoken.dev/inject'].orValue('') != 'false'",
			},
		},
	}
	eachFile(t, func(t *testing.T, path string) {
		want := *want.DeepCopy()
		if strings.HasSuffix(path, "full.yaml") {
			values := &want.NamespaceSelector.MatchExpressions[0].Values
			*values = append(*values, "monitoring")
		}
		configuration := one[*admissionregistrationv1.MutatingWebhookConfiguration](t, decode(t, path))
		wantAnnotations := map[string]string{"cert-manager.io/inject-ca-from": "podtoken-system/podtoken-webhook-tls"}
		switch filepath.Base(path) {
		case "secret.yaml":
			wantAnnotations = nil
			want.ClientConfig.CABundle = configuration.Webhooks[0].ClientConfig.CABundle
			if block, rest := pem.Decode(want.ClientConfig.CABundle); block == nil || len(rest) > 0 {
				t.Errorf("caBundle is %q, want the certificate of the values", want.ClientConfig.CABundle)
			}
		case "selfmanaged.yaml":
			wantAnnotations = nil // and no caBundle, which Helm would else own and reset
		}
		if diff := cmp.Diff([]admissionregistrationv1.MutatingWebhook{want}, configuration.Webhooks); diff != "" {
			t.Errorf("webhooks (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(wantAnnotations, configuration.Annotations); diff != "" {
			t.Errorf("annotations (-want +got):\n%s", diff)
		}
	}, golden, install)
}

// TestConfiguration feeds the ConfigMap to the parser of its consumer.
func TestConfiguration(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		configMap := named[*corev1.ConfigMap](t, decode(t, path), "podtoken-webhook")
		cfg, err := mutate.ParseConfig([]byte(configMap.Data["config.yaml"]))
		if err != nil {
			t.Fatal(err)
		}
		if full := strings.HasSuffix(path, "full.yaml"); full != (cfg.Sidecar.RunAsUser == nil) {
			t.Errorf("sidecar.runAsUser is %v: null has to stay null and only null", cfg.Sidecar.RunAsUser)
		}
	}, golden, install)
}

// TestDefaultsAreTheProgramsDefaults: what the chart writes out is what the webhook does without being told.
func TestDefaultsAreTheProgramsDefaults(t *testing.T) {
	objects := decode(t, filepath.Join(root, "charts/podtoken/golden/default.yaml"))
	got, err := mutate.ParseConfig([]byte(named[*corev1.ConfigMap](t, objects, "podtoken-webhook").Data["config.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	want, err := mutate.ParseConfig([]byte(`{"apiVersion": "podtoken.dev/v1alpha1", "kind": "WebhookConfiguration",
		"sidecar": {"image": "podtoken/sidecar:0.1.0"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-without values +of the chart):\n%s", diff)
	}
}

// spreadOverNodes is the selector of the only topology spread constraint. A second one that is only preferred, for zones, would
// make both worthless on nodes without zones: the scheduler does not score nodes that lack the label of one of them
// (k8s.io/kubernetes@v1.37.2/pkg/scheduler/framework/plugins/podtopologyspread/scoring.go).
func spreadOverNodes(t *testing.T, spec corev1.PodSpec) *metav1.LabelSelector {
	t.Helper()
	if c := spec.TopologySpreadConstraints; len(c) != 1 || c[0].TopologyKey != corev1.LabelHostname || c[0].WhenUnsatisfiable != corev1.ScheduleAnyway {
		t.Fatalf("topology spread constraints are %+v, want one that prefers nodes without such a pod", c)
	}
	return spec.TopologySpreadConstraints[0].LabelSelector
}

func spreadOverZones(t *testing.T, spec corev1.PodSpec) *metav1.LabelSelector {
	t.Helper()
	preferred := spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	if len(preferred) != 1 || preferred[0].PodAffinityTerm.TopologyKey != corev1.LabelTopologyZone {
		t.Fatalf("anti-affinity is %+v, want a preference for zones without such a pod", preferred)
	}
	return preferred[0].PodAffinityTerm.LabelSelector
}

// TestReferences: whatever names another object names one that is there.
func TestReferences(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		for name, wantPorts := range map[string]map[int32]int32{
			"podtoken-webhook": {443: 9443, 8080: 8080}, "podtoken-controller": {8080: 8080},
		} {
			deployment := named[*appsv1.Deployment](t, objects, name)
			spec := deployment.Spec.Template.Spec
			podLabels := labels.Set(deployment.Spec.Template.Labels)
			service := named[*corev1.Service](t, objects, name)
			for what, selector := range map[string]*metav1.LabelSelector{
				"Deployment":          deployment.Spec.Selector,
				"PodDisruptionBudget": named[*policyv1.PodDisruptionBudget](t, objects, name).Spec.Selector,
				"Service":             {MatchLabels: service.Spec.Selector},
				"spread over nodes":   spreadOverNodes(t, spec),
				"spread over zones":   spreadOverZones(t, spec),
			} {
				if parsed, err := metav1.LabelSelectorAsSelector(selector); err != nil || parsed.Empty() || !parsed.Matches(podLabels) {
					t.Errorf("%s of %s: selector %v does not select the pods with %v (%v)", what, name, selector, podLabels, err)
				}
			}
			ports := map[string]int32{}
			for _, port := range spec.Containers[0].Ports {
				ports[port.Name] = port.ContainerPort
			}
			got := map[int32]int32{}
			for _, port := range service.Spec.Ports {
				got[port.Port] = ports[port.TargetPort.StrVal]
			}
			if diff := cmp.Diff(wantPorts, got); diff != "" {
				t.Errorf("ports of the Service to ports of the container (-want +got):\n%s", diff)
			}
		}
		for _, template := range podTemplates(objects) {
			if template.Labels["app.kubernetes.io/component"] == "test" {
				continue // A pod as a user has it, with the ServiceAccount that each namespace has.
			}
			named[*corev1.ServiceAccount](t, objects, template.Spec.ServiceAccountName)
			for _, configMap := range configMapsOf(template.Spec) {
				if configMap == "kube-root-ca.crt" {
					continue // Kubernetes puts it into every namespace.
				}
				named[*corev1.ConfigMap](t, objects, configMap)
			}
		}
		for _, binding := range all[*rbacv1.ClusterRoleBinding](objects) {
			named[*rbacv1.ClusterRole](t, objects, binding.RoleRef.Name)
			named[*corev1.ServiceAccount](t, objects, binding.Subjects[0].Name)
		}
		for _, binding := range all[*rbacv1.RoleBinding](objects) {
			named[*rbacv1.Role](t, objects, binding.RoleRef.Name)
			named[*corev1.ServiceAccount](t, objects, binding.Subjects[0].Name)
		}
		for _, schema := range all[*flowcontrolv1.FlowSchema](objects) {
			named[*flowcontrolv1.PriorityLevelConfiguration](t, objects, schema.Spec.PriorityLevelConfiguration.Name)
		}
		for _, object := range objects {
			wantNamespace := "podtoken-system"
			switch object.(type) {
			case *corev1.Namespace, *admissionregistrationv1.MutatingWebhookConfiguration, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding,
				*admissionregistrationv1.ValidatingAdmissionPolicy, *admissionregistrationv1.ValidatingAdmissionPolicyBinding,
				*flowcontrolv1.FlowSchema, *flowcontrolv1.PriorityLevelConfiguration:
				wantNamespace = ""
			case *rbacv1.Role, *rbacv1.RoleBinding:
				if strings.HasSuffix(object.GetName(), "-api-servers") {
					wantNamespace = "default" // where the API servers' own Service is
				}
			case *corev1.Pod: // of the test
				if wantNamespace = "default"; strings.HasSuffix(path, "full.yaml") {
					wantNamespace = "bank"
				}
			}
			if object.GetNamespace() != wantNamespace {
				t.Errorf("%T %s is in namespace %q, want %q", object, object.GetName(), object.GetNamespace(), wantNamespace)
			}
			if object.GetLabels()["app.kubernetes.io/part-of"] != "podtoken" {
				t.Errorf("%T %s has labels %v", object, object.GetName(), object.GetLabels())
			}
		}
	}, golden, install)
}

// configMapsOf returns the names of the ConfigMaps that a pod mounts.
func configMapsOf(spec corev1.PodSpec) []string {
	var names []string
	for _, volume := range spec.Volumes {
		if volume.ConfigMap != nil {
			names = append(names, volume.ConfigMap.Name)
		}
		if volume.Projected != nil {
			for _, source := range volume.Projected.Sources {
				if source.ConfigMap != nil {
					names = append(names, source.ConfigMap.Name)
				}
			}
		}
	}
	return names
}

// TestWebhookPods: what keeps the webhook available, and itself out of reach.
func TestWebhookPods(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		deployment := named[*appsv1.Deployment](t, objects, "podtoken-webhook")
		spec := deployment.Spec.Template.Spec
		container := spec.Containers[0]

		if *deployment.Spec.Replicas < 2 || deployment.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 {
			t.Errorf("an update takes webhooks away: %+v of %d", deployment.Spec.Strategy, *deployment.Spec.Replicas)
		}
		if named[*policyv1.PodDisruptionBudget](t, objects, "podtoken-webhook").Spec.MinAvailable != nil {
			t.Error("the PodDisruptionBudget would block the drain of a single replica")
		}
		for _, account := range []*bool{spec.AutomountServiceAccountToken, named[*corev1.ServiceAccount](t, objects, "podtoken-webhook").AutomountServiceAccountToken} {
			if account == nil || *account {
				t.Error("the webhook has an API credential")
			}
		}
		if _, limited := container.Resources.Limits[corev1.ResourceCPU]; limited || container.Resources.Limits.Memory().IsZero() ||
			container.Resources.Requests.Cpu().IsZero() || container.Resources.Requests.Memory().IsZero() {
			t.Errorf("resources are %+v, want requests, a memory limit and no CPU limit", container.Resources)
		}
		if container.LivenessProbe.HTTPGet.Path != "/healthz" || container.ReadinessProbe.HTTPGet.Path != "/readyz" {
			t.Error("the probes ask elsewhere")
		}
		for _, template := range podTemplates(objects) {
			if c := template.Spec.Containers[0]; c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
				t.Errorf("kubectl describe pod does not say why container %q has ended", c.Name)
			}
		}
		if context := container.SecurityContext; context.ReadOnlyRootFilesystem == nil || !*context.ReadOnlyRootFilesystem {
			t.Error("the root file system can be written to")
		}
		if mode := *spec.Volumes[0].Secret.DefaultMode; mode != 0o440 {
			t.Errorf("the key's mode is %#o, want 0440: for the group that fsGroup gives it", mode)
		}
		for _, mount := range container.VolumeMounts {
			if mount.SubPath != "" {
				t.Errorf("volume %s is mounted with a subPath, which never changes", mount.Name)
			}
		}
		for _, arg := range container.Args {
			if value, found := strings.CutPrefix(arg, "--drain-delay="); found {
				delay, err := time.ParseDuration(value)
				if err != nil || time.Duration(*spec.TerminationGracePeriodSeconds)*time.Second < delay+10*time.Second {
					t.Errorf("killed after %d s, with a drain delay of %v (%v)", *spec.TerminationGracePeriodSeconds, delay, err)
				}
			}
		}
		for key := range deployment.Spec.Template.Annotations {
			if strings.HasPrefix(key, "checksum/") {
				t.Errorf("annotation %s restarts the webhook when it would read the change itself", key)
			}
		}
	}, golden, install)
}

// TestInstallManifest: install.yaml is the default render with a namespace on top, without hooks, and not said to be Helm's.
func TestInstallManifest(t *testing.T) {
	const managedBy = "app.kubernetes.io/managed-by"
	var fromHelm objects
	for _, object := range decode(t, filepath.Join(root, "charts/podtoken/golden/default.yaml")) {
		if object.GetAnnotations()["helm.sh/hook"] != "" {
			continue // kubectl would run it at once: the only hook is the one of the uninstallation
		}
		delete(object.GetLabels(), managedBy)
		fromHelm = append(fromHelm, object)
	}
	manifest := decode(t, filepath.Join(root, install))
	namespace, ok := manifest[0].(*corev1.Namespace)
	if !ok {
		t.Fatalf("begins with a %T, want a Namespace", manifest[0])
	}
	if namespace.Name != "podtoken-system" || namespace.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Errorf("namespace %s has labels %v", namespace.Name, namespace.Labels)
	}
	if diff := cmp.Diff(fromHelm, manifest[1:]); diff != "" {
		t.Errorf("run `make generate`; objects (-default render +install.yaml):\n%s", diff)
	}
}

// TestImagesNameNoRegistry: as delivered, every image is looked up where the container runtime looks by default.
func TestImagesNameNoRegistry(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		images := 0
		for line := range strings.SplitSeq(string(content), "\n") {
			image, found := strings.CutPrefix(strings.TrimLeft(line, " -"), "image: ")
			if !found {
				continue
			}
			images++
			// The rule of the reference format: a first part with a dot, a colon or "localhost" is a host.
			first, _, hasFolder := strings.Cut(strings.Trim(image, `"`), "/")
			if hasFolder && (strings.ContainsAny(first, ".:") || first == "localhost") {
				t.Errorf("image %s names a registry", image)
			}
		}
		if images == 0 {
			t.Error("there are no images")
		}
	}, "charts/podtoken/golden/default.yaml", install, "manifests/examples/*.yaml")
}

// TestImageReferences: digest before tag before appVersion, the registry in front.
func TestImageReferences(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	want := map[string][2]string{
		"default.yaml":     {"podtoken/webhook:0.1.0", "podtoken/sidecar:0.1.0"},
		"secret.yaml":      {"podtoken/webhook:0.1.0", "podtoken/sidecar:0.1.0"},
		"selfmanaged.yaml": {"podtoken/webhook:0.1.0", "podtoken/sidecar:0.1.0"},
		"full.yaml": {
			"images.example.com:5000/mirror/tokens/webhook@" + digest,
			"images.example.com:5000/mirror/tokens/sidecar:v9.9.9",
		},
	}
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		cfg, err := mutate.ParseConfig([]byte(named[*corev1.ConfigMap](t, objects, "podtoken-webhook").Data["config.yaml"]))
		if err != nil {
			t.Fatal(err)
		}
		got := [2]string{named[*appsv1.Deployment](t, objects, "podtoken-webhook").Spec.Template.Spec.Containers[0].Image, cfg.Sidecar.Image}
		if got != want[filepath.Base(path)] {
			t.Errorf("got %q, want %q", got, want[filepath.Base(path)])
		}
	}, golden)
}
