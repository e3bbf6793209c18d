package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/podtoken/podtoken/internal/policy"
)

// TestPoliciesFailClosed: whatever goes wrong in a policy refuses the request, and no policy can be switched off by an
// object that it needs: a missing param would refuse every kubelet's token requests.
func TestPoliciesFailClosed(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		policies := all[*admissionregistrationv1.ValidatingAdmissionPolicy](objects)
		var names []string
		for _, p := range policies {
			names = append(names, p.Name)
			if p.Spec.FailurePolicy == nil || *p.Spec.FailurePolicy != admissionregistrationv1.Fail || p.Spec.ParamKind != nil {
				t.Errorf("%s: failurePolicy %v, paramKind %v", p.Name, p.Spec.FailurePolicy, p.Spec.ParamKind)
			}
			if len(p.Spec.MatchConditions) == 0 {
				t.Errorf("%s concerns everybody", p.Name)
			}
			for _, validation := range p.Spec.Validations {
				if validation.Reason == nil || *validation.Reason != "Forbidden" {
					t.Errorf("%s: %q has reason %v, want Forbidden (else the API server answers 422)", p.Name, validation.Expression, validation.Reason)
				}
				if text := validation.Message + validation.MessageExpression; !strings.HasPrefix(strings.TrimLeft(text, "'"), "podtoken: ") {
					t.Errorf("%s: the message %q does not say whose it is", p.Name, text)
				}
			}
			binding := named[*admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, objects, p.Name)
			wantActions := []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny, admissionregistrationv1.Audit}
			if p.Name == "podtoken-guard-strict" && !strings.HasSuffix(path, "selfmanaged.yaml") {
				wantActions = wantActions[1:] // it denies where guard.strict is set
			}
			if binding.Spec.PolicyName != p.Name || binding.Spec.MatchResources != nil || !slices.Equal(binding.Spec.ValidationActions, wantActions) {
				t.Errorf("%s: the binding is %+v", p.Name, binding.Spec)
			}
		}
		slices.Sort(names)
		want := []string{"podtoken-controller-guard", "podtoken-enforce", "podtoken-ephemeralcontainers", "podtoken-grants", "podtoken-guard", "podtoken-guard-strict"}
		if strings.HasSuffix(path, "full.yaml") { // static guard, and namespaces of mode rbac
			want = []string{"podtoken-controller-guard", "podtoken-enforce", "podtoken-ephemeralcontainers", "podtoken-grants", "podtoken-rbac"}
		}
		if !slices.Equal(names, want) {
			t.Errorf("policies %q, want %q", names, want)
		}
	}, golden, install)
}

// TestHelmKeepsWhatLimitsGrants: grants are not of a release, so the policies that limit them must survive each of helm's actions, and what removes the grants
// has to remove it. Nothing else of the chart is kept, or it would outlive an uninstallation.
func TestHelmKeepsWhatLimitsGrants(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		var kept []string
		for _, o := range objects {
			if o.GetAnnotations()["helm.sh/resource-policy"] == "keep" {
				kept = append(kept, fmt.Sprintf("%T %s", o, o.GetName()))
			}
		}
		slices.Sort(kept)
		want := []string{
			"*v1.ValidatingAdmissionPolicy podtoken-grants", "*v1.ValidatingAdmissionPolicy podtoken-guard",
			"*v1.ValidatingAdmissionPolicyBinding podtoken-grants", "*v1.ValidatingAdmissionPolicyBinding podtoken-guard",
		}
		if strings.HasSuffix(path, "full.yaml") { // static guard
			want = []string{want[0], want[2]}
		}
		if !slices.Equal(kept, want) {
			t.Errorf("helm keeps %q, want %q", kept, want)
		}
		if strings.HasSuffix(path, install) { // without hooks
			return
		}
		args := one[*batchv1.Job](t, objects).Spec.Template.Spec.Containers[0].Args
		for _, want := range []string{"--guard=podtoken-guard", "--grants-policy=podtoken-grants"} {
			if !slices.Contains(args, want) {
				t.Errorf("the cleanup has the arguments %q without %s: it leaves the policy", args, want)
			}
		}
		rule := rbacv1.PolicyRule{
			APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings"},
			ResourceNames: []string{"podtoken-guard", "podtoken-grants"}, Verbs: []string{"delete"},
		}
		if rules := named[*rbacv1.ClusterRole](t, objects, "podtoken-cleanup").Rules; !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return cmp.Equal(r, rule) }) {
			t.Errorf("the cleanup may not delete what helm keeps: %+v", rules)
		}
	}, golden, install)
}

// TestStaticGuard: the file for the API servers' disks has the rules of the guard in the cluster, under the name that
// such files must have, and the chart offers the same file.
func TestStaticGuard(t *testing.T) {
	static := decode(t, filepath.Join(root, "manifests/guard-static.yaml"))
	inCluster := named[*admissionregistrationv1.ValidatingAdmissionPolicy](t, decode(t, filepath.Join(root, install)), "podtoken-guard")
	onDisk := one[*admissionregistrationv1.ValidatingAdmissionPolicy](t, static)
	if diff := cmp.Diff(inCluster.Spec, onDisk.Spec); diff != "" {
		t.Errorf("rules (-in the cluster +on disk):\n%s", diff)
	}
	for _, name := range []string{onDisk.Name, one[*admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, static).Name} {
		if !strings.HasSuffix(name, ".static.k8s.io") {
			t.Errorf("the API server takes no object named %q from its disk", name)
		}
	}
	full := decode(t, filepath.Join(root, "charts/podtoken/golden/full.yaml"))
	offered := named[*corev1.ConfigMap](t, full, "podtoken-guard").Data["podtoken-guard.yaml"]
	// Not behind a separator: the API server takes a document of comments for an object without a kind.
	if file := read(t, "manifests/guard-static.yaml"); strings.TrimSpace(file[strings.Index(file, "\napiVersion:"):]) != strings.TrimSpace(offered) || strings.Contains(file, "#\n---\n") {
		t.Error("the ConfigMap of the chart differs from manifests/guard-static.yaml: run `make generate`")
	}
}

// TestProbeOfTheGuard: the one token request of the controller that its own guard leaves to the guard of the tokens has all properties of the
// probe, and the program gets both names, the one on disk included.
func TestProbeOfTheGuard(t *testing.T) {
	want := "request.resource.resource == 'serviceaccounts' && request.dryRun && request.namespace == 'podtoken-system' && " +
		"request.name == 'podtoken-controller' && variables.new.spec.?audiences.orValue([]) == ['podtoken.dev/guard-probe'] && " +
		"variables.new.spec.?expirationSeconds.orValue(0) == 600 && variables.new.spec.?boundObjectRef.orValue(null) == null"
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		spec := named[*admissionregistrationv1.ValidatingAdmissionPolicy](t, objects, "podtoken-controller-guard").Spec
		i := slices.IndexFunc(spec.Variables, func(v admissionregistrationv1.Variable) bool { return v.Name == "probe" })
		if i < 0 || strings.Join(strings.Fields(spec.Variables[i].Expression), " ") != want {
			t.Errorf("the variable probe is not %s", want)
		}
		if spec.Validations[0].Expression != "request.resource.resource != 'serviceaccounts' || variables.probe" {
			t.Errorf("the first validation is %q", spec.Validations[0].Expression)
		}
		for _, validation := range spec.Validations[1:] {
			if strings.Contains(validation.Expression, "variables.probe") {
				t.Errorf("the probe is exempt from more: %q", validation.Expression)
			}
		}
		guard := "--guard=podtoken-guard"
		if strings.HasSuffix(path, "full.yaml") { // static guard
			guard = "--guard=" + one[*admissionregistrationv1.ValidatingAdmissionPolicy](t, decode(t, filepath.Join(root, "manifests/guard-static.yaml"))).Name
		}
		args := named[*appsv1.Deployment](t, objects, "podtoken-controller").Spec.Template.Spec.Containers[0].Args
		for _, arg := range []string{guard, "--controller-guard=podtoken-controller-guard"} {
			if !slices.Contains(args, arg) {
				t.Errorf("the controller has the arguments %q without %s", args, arg)
			}
		}
		rules := named[*rbacv1.Role](t, objects, "podtoken-controller-api-servers").Rules
		if diff := cmp.Diff([]rbacv1.PolicyRule{{
			APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, ResourceNames: []string{"kubernetes"}, Verbs: []string{"get"},
		}}, rules); diff != "" {
			t.Errorf("rights in namespace default (-want +got):\n%s", diff)
		}
	}, golden, install)
}

// TestPolicyConfiguration feeds the ConfigMap to the parser of its consumers.
func TestPolicyConfiguration(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		parsed, err := policy.Parse([]byte(named[*corev1.ConfigMap](t, objects, "podtoken-policy").Data["policy.yaml"]))
		if err != nil {
			t.Fatal(err)
		}
		full := strings.HasSuffix(path, "full.yaml")
		if parsed.RBAC("prod-eu") != full || parsed.RBAC("bank") != full || parsed.RBAC("pay-eu") {
			t.Error("the namespaces of mode rbac are others")
		}
	}, golden, install)
}

// TestControllerHoldsWhatItHandsOut, and nothing else that is dangerous: no verb but those of grants, no escalate, no bind.
func TestControllerHoldsWhatItHandsOut(t *testing.T) {
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods", "serviceaccounts"}, Verbs: []string{"list", "watch"}},
		{
			APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"roles", "rolebindings"},
			Verbs: []string{"get", "list", "watch", "create", "patch", "delete"},
		},
		{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, Verbs: []string{"create"}},
		{APIGroups: []string{"podtoken.dev"}, Resources: []string{"tokens", "lifetimes"}, Verbs: []string{"mint"}},
		{APIGroups: []string{"podtoken.dev"}, Resources: []string{"audiences"}, Verbs: []string{"mint", "renew"}},
		{
			APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings"},
			ResourceNames: []string{"podtoken-guard"}, Verbs: []string{"list", "watch"},
		},
		{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
	role := named[*rbacv1.ClusterRole](t, decode(t, filepath.Join(root, install)), "podtoken-controller")
	if diff := cmp.Diff(want, role.Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

// TestWebhookHasNoRights: nothing binds anything to its ServiceAccount.
func TestWebhookHasNoRights(t *testing.T) {
	eachFile(t, func(t *testing.T, path string) {
		objects := decode(t, path)
		var subjects []rbacv1.Subject
		for _, binding := range all[*rbacv1.RoleBinding](objects) {
			subjects = append(subjects, binding.Subjects...)
		}
		for _, binding := range all[*rbacv1.ClusterRoleBinding](objects) {
			subjects = append(subjects, binding.Subjects...)
		}
		for _, subject := range subjects {
			if subject.Kind != rbacv1.ServiceAccountKind || subject.Name == "podtoken-webhook" {
				t.Errorf("subject %+v", subject)
			}
		}
		if len(subjects) == 0 {
			t.Error("there are no bindings")
		}
	}, golden, install)
}
