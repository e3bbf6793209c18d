package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

const tokenPath = api.DefaultMountPath + "/token"

func template(annotations map[string]string, spec corev1.PodSpec) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}, Annotations: annotations}, Spec: spec}
}

// Pods of a Deployment come to admission with a generateName and no name; the token must still name the pod.
func TestDeployment(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	_, err := client.AppsV1().Deployments(n.name).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}},
			Template: template(annotations("audience", audienceDefault), podSpec())},
	}, metav1.CreateOptions{})
	must(t, err, "creating the Deployment")
	eventually(t, 3*time.Minute, "the Deployment is available", func(ctx context.Context) (bool, error) {
		d, err := client.AppsV1().Deployments(n.name).Get(ctx, "web", metav1.GetOptions{})
		return err == nil && d.Status.AvailableReplicas == 2, err
	})
	pods, err := client.CoreV1().Pods(n.name).List(t.Context(), metav1.ListOptions{})
	must(t, err, "listing pods")
	for _, p := range pods.Items {
		assertReview(t, n.token(p.Name, "app", tokenPath), audienceDefault, &p)
	}
}

func TestStatefulSet(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	_, err := client.AppsV1().StatefulSets(n.name).Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{Replicas: ptr(int32(1)), ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}},
			Template: template(annotations("audience", audienceDefault), podSpec())},
	}, metav1.CreateOptions{})
	must(t, err, "creating the StatefulSet")
	eventually(t, 3*time.Minute, "the StatefulSet's pod exists", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Pods(n.name).Get(ctx, "db-0", metav1.GetOptions{})
		return err == nil, err
	})
	pod := n.ready("db-0")
	assertReview(t, n.token("db-0", "app", tokenPath), audienceDefault, pod)
}

// The sidecar ends when the application has ended, so Jobs complete; and the application had its token from the start.
func TestJobAndCronJobComplete(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec(probePath, "stat", tokenPath)
	spec.RestartPolicy = corev1.RestartPolicyNever
	job := batchv1.JobSpec{BackoffLimit: ptr(int32(0)), Template: template(annotations("audience", audienceDefault), spec)}
	_, err := client.BatchV1().Jobs(n.name).Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "once"}, Spec: job}, metav1.CreateOptions{})
	must(t, err, "creating the Job")
	_, err = client.BatchV1().CronJobs(n.name).Create(t.Context(), &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "often"},
		Spec:       batchv1.CronJobSpec{Schedule: "* * * * *", ConcurrencyPolicy: batchv1.ForbidConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: job}},
	}, metav1.CreateOptions{})
	must(t, err, "creating the CronJob")

	complete := func(match func(batchv1.Job) bool) func(context.Context) (bool, error) {
		return func(ctx context.Context) (bool, error) {
			jobs, err := client.BatchV1().Jobs(n.name).List(ctx, metav1.ListOptions{})
			if err != nil {
				return false, err
			}
			for _, j := range jobs.Items {
				if match(j) && j.Status.Succeeded > 0 {
					return true, nil
				}
			}
			return false, nil
		}
	}
	eventually(t, 2*time.Minute, "the Job completes", complete(func(j batchv1.Job) bool { return j.Name == "once" }))
	eventually(t, 3*time.Minute, "a Job of the CronJob completes", complete(func(j batchv1.Job) bool { return strings.HasPrefix(j.Name, "often-") }))
	pods, err := client.CoreV1().Pods(n.name).List(t.Context(), metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=once"})
	must(t, err, "listing the Job's pods")
	for _, p := range pods.Items {
		if out := n.logs(p.Name, "app"); !strings.Contains(out, `"readable":true`) {
			t.Errorf("the Job's application saw no token: %s", out)
		}
	}
}

// A Job with restartPolicy OnFailure counts restarts, also of the sidecar: it waits for its first token for three minutes without one, says why, and completes.
func TestJobThatCountsRestartsWaits(t *testing.T) {
	t.Parallel()
	const late = "late"
	n := newNamespace(t, nil)
	n.account(late)
	n.block(late)
	spec := podSpec(probePath, "stat", tokenPath)
	spec.ServiceAccountName, spec.RestartPolicy = late, corev1.RestartPolicyOnFailure
	_, err := n.client.BatchV1().Jobs(n.name).Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "once"},
		Spec: batchv1.JobSpec{BackoffLimit: ptr(int32(0)), Template: template(annotations("audience", audienceDefault), spec)}}, metav1.CreateOptions{})
	must(t, err, "creating the Job")
	var pod corev1.Pod
	eventually(t, pollShort, "the sidecar runs", func(ctx context.Context) (bool, error) {
		pods, err := n.client.CoreV1().Pods(n.name).List(ctx, metav1.ListOptions{})
		if err != nil || len(pods.Items) != 1 {
			return false, err
		}
		pod = pods.Items[0]
		return running(pod.Status.InitContainerStatuses, api.ContainerName), nil
	})
	n.event(pod.Name, "Unhealthy", "Forbidden")
	if log := n.logs(pod.Name, api.ContainerName); !strings.Contains(log, "Forbidden") {
		t.Errorf("the log does not say why the Pod waits:\n%s", log)
	}
	time.Sleep(3 * time.Minute)
	n.unblock(late)
	eventually(t, 2*time.Minute, "the Job completes", func(ctx context.Context) (bool, error) {
		job, err := n.client.BatchV1().Jobs(n.name).Get(ctx, "once", metav1.GetOptions{})
		if err == nil && job.Status.Failed > 0 {
			t.Fatalf("the Job has failed: %+v", job.Status)
		}
		return err == nil && job.Status.Succeeded == 1, err
	})
	after, err := n.client.CoreV1().Pods(n.name).Get(t.Context(), pod.Name, metav1.GetOptions{})
	must(t, err, "reading the Pod")
	if restarts := after.Status.InitContainerStatuses[0].RestartCount; after.UID != pod.UID || restarts > 0 {
		t.Errorf("the sidecar was restarted %d times, in the same Pod: %t", restarts, after.UID == pod.UID)
	}
	if out := n.logs(pod.Name, "app"); !strings.Contains(out, `"readable":true`) {
		t.Errorf("the Job's application saw no token: %s", out)
	}
}

// "containers: … init ones too": an init container of the user finds its token.
func TestInitContainersSeeTheTokens(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	spec := podSpec()
	spec.InitContainers = []corev1.Container{container("setup", probePath, "stat", tokenPath)}
	n.create("pod", annotations("audience", audienceDefault), spec)
	pod := n.ready("pod")
	if pod.Spec.InitContainers[0].Name != api.ContainerName {
		t.Errorf("the first init container is %q, want %q", pod.Spec.InitContainers[0].Name, api.ContainerName)
	}
	if out := n.logs("pod", "setup"); !strings.Contains(out, `"readable":true`) {
		t.Errorf("the init container saw no token: %s", out)
	}
}

// wait "true" holds the application back while no token can be had; wait "false" lets it start at once, and the token
// follows. The grant that is missing at first arrives later.
func TestWait(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	late := "late"
	n.account(late)
	n.block(late)
	spec := podSpec()
	spec.ServiceAccountName = late
	n.create("waits", annotations("audience", audienceDefault), spec)
	n.create("hurries", annotations("audience", audienceDefault, "wait", "false"), spec)

	n.ready("hurries")
	log := n.logs("hurries", api.ContainerName)
	if !strings.Contains(log, "serviceaccounts/token") && !strings.Contains(log, "orbidden") {
		t.Errorf("the sidecar's log does not say why there is no token:\n%s", log)
	}
	waits, err := client.CoreV1().Pods(n.name).Get(t.Context(), "waits", metav1.GetOptions{})
	must(t, err, "reading the pod")
	for _, c := range waits.Status.ContainerStatuses {
		if c.State.Running != nil || c.State.Terminated != nil {
			t.Errorf("container %q has started before the token exists", c.Name)
		}
	}
	n.unblock(late)
	pod := n.ready("waits")
	assertReview(t, n.token("waits", "app", tokenPath), audienceDefault, pod)
	eventually(t, time.Minute, "the token of the pod that did not wait exists", func(context.Context) (bool, error) {
		_, err := n.exec("hurries", "app", probePath, "stat", tokenPath)
		return err == nil, err
	})
}
