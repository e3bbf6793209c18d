package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// create creates a pod with podtoken's annotations, without their prefix.
func (s *scenario) create(ctx context.Context, namespace, name, account string, annotations map[string]string, dryRun bool) (*corev1.Pod, error) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}}
	for key, value := range annotations {
		pod.Annotations[api.Prefix+key] = value
	}
	pod.Spec.ServiceAccountName = account
	grace := int64(1)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	pod.Spec.Containers = []corev1.Container{{Name: "app", Image: s.image, Args: []string{"sleep", "1h"}}}
	options := metav1.CreateOptions{}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return s.client.CoreV1().Pods(namespace).Create(ctx, pod, options)
}

func (s *scenario) createWrongPods(ctx context.Context) error {
	for _, annotations := range []map[string]string{
		{"audience.vault": "vault", "expiration": "1m"},
		{"audience.vault": "vault", "expires": "1h"},
		{"audience.vault": "vault", "refresh-at": "100"},
	} {
		if _, err := s.create(ctx, "shop", "wrong", "", annotations, false); err == nil || !strings.Contains(err.Error(), "podtoken.dev/") {
			return fmt.Errorf("a pod with %v is not refused for them: %w", annotations, err)
		}
	}
	return nil
}

// createPodNotAllowed is after the webhook has read the narrower policy.
func (s *scenario) createPodNotAllowed(ctx context.Context) error {
	_, err := s.create(ctx, "legacy", "another", "", map[string]string{"audience.host": "https://host.example.com"}, false)
	if err == nil || !strings.Contains(err.Error(), "policy") {
		return fmt.Errorf("a pod that the policy does not allow is not refused for it: %w", err)
	}
	return nil
}

func (s *scenario) pods(ctx context.Context, component string) ([]corev1.Pod, error) {
	list, err := s.client.CoreV1().Pods(cluster.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
	if err == nil && len(list.Items) == 0 {
		err = fmt.Errorf("there is no pod of the %s", component)
	}
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (s *scenario) deletePod(ctx context.Context, component string) error {
	pods, err := s.pods(ctx, component)
	if err != nil {
		return err
	}
	return s.client.CoreV1().Pods(cluster.Namespace).Delete(ctx, pods[0].Name, metav1.DeleteOptions{})
}

// deleteLeader deletes the pod whose name begins the holder of the controller's lease.
func (s *scenario) deleteLeader(ctx context.Context) error {
	leases, err := s.client.CoordinationV1().Leases(cluster.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	pods, err := s.pods(ctx, "controller")
	if err != nil {
		return err
	}
	for i := range leases.Items {
		for j := range pods {
			if holder := leases.Items[i].Spec.HolderIdentity; holder != nil && strings.HasPrefix(*holder, pods[j].Name) {
				return s.client.CoreV1().Pods(cluster.Namespace).Delete(ctx, pods[j].Name, metav1.DeleteOptions{})
			}
		}
	}
	return errors.New("no pod of the controller holds a lease")
}

// scale gives a Deployment as many replicas, and waits until none is left if that is what is wanted.
func (s *scenario) scale(ctx context.Context, component string, replicas int) error {
	name := cluster.Release + "-" + component
	if _, err := s.cluster.Kubectl(ctx, nil, "--namespace", cluster.Namespace, "scale", "deployment/"+name, fmt.Sprintf("--replicas=%d", replicas)); err != nil {
		return err
	}
	if replicas > 0 {
		return nil
	}
	_, err := s.cluster.Kubectl(ctx, nil, "--namespace", cluster.Namespace, "wait", "pod", "--for=delete",
		"--selector=app.kubernetes.io/component="+component, "--timeout=30s")
	return err
}

// createPodWithoutGrant makes a pod of a new ServiceAccount, whose grant has the name of a Role that the controller does not touch.
func (s *scenario) createPodWithoutGrant(ctx context.Context) error {
	_, err := s.client.CoreV1().ServiceAccounts("shop").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = s.client.RbacV1().Roles("shop").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: api.GrantPrefix + "new"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = s.create(ctx, "shop", "new", "new", map[string]string{"audience.vault": "vault", "metrics-port": "9901"}, false)
	return err
}

func (s *scenario) unblock(ctx context.Context) error {
	return s.client.RbacV1().Roles("shop").Delete(ctx, api.GrantPrefix+"new", metav1.DeleteOptions{})
}

func (s *scenario) createPodWithoutWebhook(ctx context.Context) error {
	if err := s.scale(ctx, "webhook", 0); err != nil {
		return err
	}
	_, err := s.create(ctx, "shop", "refused", "", map[string]string{"audience.vault": "vault"}, false)
	if !apierrors.IsInternalError(err) {
		return fmt.Errorf("without a webhook a pod is not refused, but: %w", err)
	}
	return nil
}

// sidecarUser is whom the sidecar runs as in a pod without a user.
const sidecarUser = 65532

// deleteFile deletes a token's file from a container that was added for that, as the sidecar's user and through the sidecar's process: no
// container may mount the volume writable. It is a token that is not replaced for long, or its next one could be there before the sidecar looks.
func (s *scenario) deleteFile(ctx context.Context) error {
	const pod, name = "monthly", "meddler"
	user := int64(sidecarUser)
	pods := s.client.CoreV1().Pods("reports")
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		got, err := pods.Get(ctx, pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		got.Spec.EphemeralContainers = append(got.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: name, Image: s.image, Args: []string{"tamper", "delete", api.SidecarTokenDir + "/storage", api.SidecarBinary, api.CommandRun},
			SecurityContext: &corev1.SecurityContext{RunAsUser: &user},
		}})
		_, err = pods.UpdateEphemeralContainers(ctx, pod, got, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); {
		got, err := pods.Get(ctx, pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for i := range got.Status.EphemeralContainerStatuses {
			if ended := got.Status.EphemeralContainerStatuses[i].State.Terminated; ended != nil {
				if ended.ExitCode != 0 {
					return fmt.Errorf("deleting a file: exit code %d, %s", ended.ExitCode, ended.Message)
				}
				return nil
			}
		}
		if err := until(ctx, time.Now().Add(time.Second)); err != nil {
			return err
		}
	}
	return errors.New("the container that deletes a file does not end")
}
