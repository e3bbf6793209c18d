package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/podtoken/podtoken/pkg/api"
)

// role returns the Role of a ServiceAccount's grant, nil when there is none.
func (n *testNamespace) role(account string) *rbacv1.Role {
	n.t.Helper()
	role, err := n.client.RbacV1().Roles(n.name).Get(n.t.Context(), api.GrantPrefix+account, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	must(n.t, err, "reading the grant of %q", account)
	return role
}

// granted waits until a ServiceAccount's grant covers exactly these audiences.
func (n *testNamespace) granted(account string, audiences ...string) *rbacv1.Role {
	n.t.Helper()
	var role *rbacv1.Role
	eventually(n.t, time.Minute, fmt.Sprintf("the grant of %q covers %q", account, audiences), func(context.Context) (bool, error) {
		if role = n.role(account); role == nil {
			return false, fmt.Errorf("there is no Role")
		}
		got := role.Rules[len(role.Rules)-1].ResourceNames
		return slices.Equal(got, audiences), fmt.Errorf("it covers %q", got)
	})
	return role
}

// gated is a pod that is never scheduled: grants do not depend on pods that run.
func gated(account string) corev1.PodSpec {
	spec := podSpec()
	spec.ServiceAccountName = account
	spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "podtoken.test/never"}}
	return spec
}

func (n *testNamespace) delete(pods ...string) {
	n.t.Helper()
	for _, pod := range pods {
		must(n.t, n.client.CoreV1().Pods(n.name).Delete(n.t.Context(), pod, metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))}), "deleting pod %q", pod)
	}
}

// The whole shape of a grant, and its life: it grows with the pods, keeps for the retention what no pod declares any more, and
// goes with the last pod.
func TestGrantFollowsThePods(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	account := n.account("follows")
	n.create("one", annotations("audience.vault", "vault"), gated("follows"))
	role := n.granted("follows", "vault")
	want := []rbacv1.PolicyRule{
		rule("", "serviceaccounts/token", "create", "follows"),
		rule("podtoken.dev", "tokens", "mint", "follows"),
		rule("podtoken.dev", "lifetimes", "mint", "3600"),
		rule("podtoken.dev", "audiences", "renew", apiAudience),
		rule("podtoken.dev", "audiences", "mint", "vault"),
	}
	if diff := cmp.Diff(want, role.Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	var binding *rbacv1.RoleBinding
	eventually(t, pollShort, "the RoleBinding is there", func(ctx context.Context) (bool, error) {
		var err error
		binding, err = client.RbacV1().RoleBindings(n.name).Get(ctx, role.Name, metav1.GetOptions{})
		return err == nil, err
	})
	wantOwner := []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: "follows", UID: account.UID}}
	for _, meta := range []metav1.ObjectMeta{role.ObjectMeta, binding.ObjectMeta} {
		if diff := cmp.Diff(wantOwner, meta.OwnerReferences); diff != "" {
			t.Errorf("owners of %s (-want +got):\n%s", meta.Name, diff)
		}
	}
	if diff := cmp.Diff([]rbacv1.Subject{{Kind: "ServiceAccount", Name: "follows", Namespace: n.name}}, binding.Subjects); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}

	n.create("two", annotations("audience.b", "billing", "audience.a", "vault, audit", "expiration", "2h"), gated("follows"))
	role = n.granted("follows", "audit", "billing", "vault")
	if got := role.Rules[2].ResourceNames; !slices.Equal(got, []string{"3600", "7200"}) {
		t.Errorf("lifetimes %q", got)
	}
	deleted := time.Now()
	n.delete("two")
	n.granted("follows", "vault")
	if after := time.Since(deleted); after < removalDelay-2*time.Second {
		t.Errorf("what no pod declares any more was taken away after %s, want %s", after, removalDelay)
	}
	// A watch sees each state, however late the test looks.
	roles, err := client.RbacV1().Roles(n.name).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + role.Name})
	must(t, err, "watching the grant")
	defer roles.Stop()
	next := func(what string, is func(watch.EventType, *rbacv1.Role) bool) *rbacv1.Role {
		t.Helper()
		for timeout := time.After(2 * time.Minute); ; {
			select {
			case event, open := <-roles.ResultChan():
				role, isRole := event.Object.(*rbacv1.Role)
				if !open || !isRole {
					t.Fatalf("the watch ended with %v before %s", event, what)
				}
				if is(event.Type, role) {
					return role
				}
			case <-timeout:
				t.Fatalf("never: %s", what)
			}
		}
	}
	deleted = time.Now()
	n.delete("one")
	role = next("only one rule of the grant is left", func(_ watch.EventType, role *rbacv1.Role) bool { return len(role.Rules) == 1 })
	if after := time.Since(deleted); after < removalDelay-2*time.Second {
		t.Errorf("the grant was withdrawn after %s, want %s", after, removalDelay)
	}
	if !cmp.Equal(role.Rules, want[1:2]) {
		t.Errorf("the withdrawn grant has the rules %v, want the mark alone", role.Rules)
	}
	withdrawn, err := time.Parse(time.RFC3339, role.Annotations[api.AnnotationWithdrawn])
	must(t, err, "reading since when the grant is withdrawn")
	next("the grant is gone", func(event watch.EventType, _ *rbacv1.Role) bool { return event == watch.Deleted })
	if after := time.Since(withdrawn); after < withdrawalDelay-2*time.Second {
		t.Errorf("the mark went %s after the rights, want %s", after, withdrawalDelay)
	}
	if _, err := client.RbacV1().RoleBindings(n.name).Get(t.Context(), role.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the RoleBinding outlived the Role: %v", err)
	}
}

// Whatever happens to a grant, the controller puts it right again: deleted, edited, its ServiceAccount re-created, its
// binding pointed elsewhere.
func TestGrantIsRepaired(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	ctx := t.Context()
	first := n.account("repaired")
	n.create("pod", annotations("audience.vault", "vault"), gated("repaired"))
	role := n.granted("repaired", "vault")
	roles, bindings := client.RbacV1().Roles(n.name), client.RbacV1().RoleBindings(n.name)

	role.Rules = []rbacv1.PolicyRule{rule("", "secrets", "get")}
	_, err := roles.Update(ctx, role, metav1.UpdateOptions{})
	must(t, err, "editing the Role")
	role = n.granted("repaired", "vault")
	if len(role.Rules) != 5 {
		t.Errorf("the edited Role was not put right: %v", role.Rules)
	}

	must(t, roles.Delete(ctx, role.Name, metav1.DeleteOptions{}), "deleting the Role")
	n.granted("repaired", "vault")

	must(t, bindings.Delete(ctx, role.Name, metav1.DeleteOptions{}), "deleting the RoleBinding")
	ours := func(context.Context) (bool, error) {
		b, err := bindings.Get(ctx, role.Name, metav1.GetOptions{})
		return err == nil && b.RoleRef.Name == role.Name && b.Labels[api.LabelGrant] == "true", err
	}
	eventually(t, pollShort, "the RoleBinding is back", ours)

	must(t, bindings.Delete(ctx, role.Name, metav1.DeleteOptions{Preconditions: nil}), "deleting the RoleBinding")
	must(t, client.CoreV1().ServiceAccounts(n.name).Delete(ctx, "repaired", metav1.DeleteOptions{}), "deleting the ServiceAccount")
	second := n.account("repaired")
	if first.UID == second.UID {
		t.Fatal("the ServiceAccount is the same")
	}
	eventually(t, time.Minute, "the grant is owned by the new ServiceAccount", func(context.Context) (bool, error) {
		role, err := roles.Get(ctx, role.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		ok, err := ours(ctx)
		return ok && role.OwnerReferences[0].UID == second.UID, err
	})
}

// Who may patch Roles may add finalizers without holding what is in them. They keep the objects, but no right.
func TestFinalizersKeepNoRight(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	ctx := t.Context()
	roles, bindings := client.RbacV1().Roles(n.name), client.RbacV1().RoleBindings(n.name)
	for account, before := range map[string]func(name string){
		"kept": func(string) {},
		// By another user, while it is needed: the finalizer keeps it whole, until it is not needed any more.
		"kept-deleted": func(name string) { must(t, roles.Delete(ctx, name, metav1.DeleteOptions{}), "deleting a Role") },
	} {
		n.account(account)
		n.create(account, annotations("audience.vault", "vault"), gated(account))
		name := n.granted(account, "vault").Name
		set := func(finalizers string) {
			t.Helper()
			patch := []byte(`{"metadata":{"finalizers":` + finalizers + `}}`)
			_, err := roles.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
			must(t, err, "changing the finalizers of a Role")
			_, err = bindings.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
			must(t, err, "changing the finalizers of a RoleBinding")
		}
		eventually(t, pollShort, "there is a RoleBinding", func(context.Context) (bool, error) {
			_, err := bindings.Get(ctx, name, metav1.GetOptions{})
			return err == nil, err
		})
		set(`["example.com/keep"]`)
		before(name)
		n.delete(account)
		eventually(t, time.Minute, "both are being deleted", func(context.Context) (bool, error) {
			role, err := roles.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			binding, err := bindings.Get(ctx, name, metav1.GetOptions{})
			return err == nil && role.DeletionTimestamp != nil && binding.DeletionTimestamp != nil, err
		})
		if n.may(account, "create", "", "serviceaccounts", "token", account) {
			t.Errorf("ServiceAccount %q has the right that a finalizer kept", account)
		}
		// A Pod that comes while they are there gets its grant all the same.
		n.create(account+"-again", annotations("audience.other", "other"), gated(account))
		n.granted(account, "other")
		set("null")
		n.granted(account, "other")
	}
}

// A Role of that name that is not podtoken's is left alone, and reported.
func TestForeignRoleIsLeftAlone(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.account("taken")
	n.block("taken")
	before := n.role("taken")
	n.create("pod", annotations("audience.vault", "vault"), gated("taken"))
	n.event("pod", "GrantConflict", api.GrantPrefix+"taken")
	if diff := cmp.Diff(before, n.role("taken")); diff != "" {
		t.Errorf("the Role was changed (-before +after):\n%s", diff)
	}
	n.unblock("taken")
	eventually(t, 2*time.Minute, "the grant is given after all", func(context.Context) (bool, error) {
		role := n.role("taken")
		return role != nil && role.Labels[api.LabelGrant] == "true", nil
	})
}

// The sidecar's arguments in the immutable spec say what a pod may have; annotations that are edited later say nothing.
func TestEditedAnnotationsChangeNoGrant(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.account("edited")
	n.create("pod", annotations("audience.vault", "vault"), gated("edited"))
	n.granted("edited", "vault")
	patch := `{"metadata":{"annotations":{"podtoken.dev/audience.vault":"stolen","podtoken.dev/audience.more":"stolen","podtoken.dev/status":"{}"}}}`
	_, err := client.CoreV1().Pods(n.name).Patch(t.Context(), "pod", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	must(t, err, "editing the annotations")
	// The controller has seen the edit when it has seen what came after it.
	n.create("next", annotations("audience.next", "next"), gated("edited"))
	n.granted("edited", "next", "vault")
}

// A first pod of a new ServiceAccount does not wait for its grant: it is usable before the sidecar runs, so that the sidecar is
// never refused. Serial, so that it measures the controller and not the other tests.
func TestGrantIsInTime(t *testing.T) {
	const accounts, running = 20, 4
	n := newNamespace(t, nil)
	var delays []time.Duration
	for i := range accounts {
		name := "new-" + strconv.Itoa(i)
		n.account(name)
		spec := gated(name)
		if i < running {
			spec.SchedulingGates = nil
		}
		n.create(name, annotations("audience.vault", "vault"), spec)
		admitted := time.Now()
		for !n.may(name, "create", "", "serviceaccounts", "token", name) || !n.may(name, "mint", api.RBACGroup, api.ResourceAudiences, "", "vault") {
			if time.Since(admitted) > 10*time.Second {
				t.Fatal("there is no grant after 10 s")
			}
		}
		delays = append(delays, time.Since(admitted))
	}
	slices.Sort(delays)
	t.Logf("from an admitted pod to a usable grant: median %s, longest of %d: %s", delays[accounts/2], accounts, delays[accounts-1])
	for i := range running {
		name := "new-" + strconv.Itoa(i)
		n.ready(name)
		if log := n.logs(name, api.ContainerName); strings.Contains(log, "orbidden") {
			t.Errorf("the first pod of ServiceAccount %q had to wait for its grant:\n%s", name, log)
		}
	}
}

// may asks the API server's authorizer, as the guard does.
func (n *testNamespace) may(account, verb, group, resource, subresource, name string) bool {
	n.t.Helper()
	review, err := n.client.AuthorizationV1().SubjectAccessReviews().Create(n.t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:" + n.name + ":" + account,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: n.name, Verb: verb, Group: group, Resource: resource, Subresource: subresource, Name: name,
			},
		},
	}, metav1.CreateOptions{})
	must(n.t, err, "asking for the rights of %q", account)
	return review.Status.Allowed
}
