package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/pkg/api"
)

var update = flag.Bool("update", false, "write what kubectl podtoken prints into testdata/plugin")

// pluginDirectory holds the plugin as a release has it, under the name by which kubectl finds it. It goes away with the cluster.
var pluginDirectory = sync.OnceValues(func() (string, error) {
	directory := filepath.Join(os.TempDir(), "podtoken-plugin")
	if shared.cluster.Owned() {
		directory = shared.cluster.Path("plugin")
	}
	if err := os.MkdirAll(directory, 0o750); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(directory, "kubectl-podtoken"), "./cmd/kubectl-podtoken")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	return directory, nil
})

// plugin runs the plugin in the namespace, and returns what it prints and its exit code.
func (n *testNamespace) plugin(stdin string, args ...string) (stdout, stderr string, code int) {
	n.t.Helper()
	directory, err := pluginDirectory()
	must(n.t, err, "building the plugin")
	ctx, cancel := context.WithTimeout(n.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(directory, "kubectl-podtoken"), append([]string{"-n", n.name}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.cluster.Kubeconfig())
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		must(n.t, err, "running the plugin")
	}
	if all := out.String() + errOut.String(); strings.Contains(all, "goroutine ") || strings.Contains(all, "panic") {
		n.t.Errorf("the plugin shows its inside:\n%s", all)
	}
	return out.String(), errOut.String(), code
}

// volatile is what differs from run to run, in the order in which it is replaced.
var volatile = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`"(exp|iat|nbf|warnafter)": \d+`), `"$1": SECONDS`},
	{regexp.MustCompile(`"kid": "[^"]+"`), `"kid": "KEY"`},
	{regexp.MustCompile(`podtoken-(webhook|controller)-[0-9a-z]+-[0-9a-z]+\b`), "podtoken-$1-POD"},
	{regexp.MustCompile(`sidecar is \S+`), "sidecar is IMAGE"},
	{regexp.MustCompile(`https://[0-9.]+:\d+`), "https://ADDRESS"},
	{regexp.MustCompile(`v1\.\d+\.\d+`), "KUBERNETES"},
	{regexp.MustCompile(`\b(webhook|controller) \d+\.\d+\.\d+\S*?(,|;)`), "$1 VERSION$2"},
	{regexp.MustCompile(`by version v[^)]+`), "by version VERSION"},
	{regexp.MustCompile(`, from the (issuer|grant).*`), ", from SOMEWHERE"},
	{regexp.MustCompile(`that of ServiceAccount \S+`), "that of ServiceAccount SOME"},
	// Ages in a table, and its columns.
	{regexp.MustCompile(`  (\d+[smhd]){1,2}\b`), "  AGE"},
	{regexp.MustCompile(`   +`), "  "},
}

// golden compares what a command printed with a file.
func (n *testNamespace) golden(name, got string) {
	n.t.Helper()
	if strings.Contains(got, "eyJ") {
		n.t.Errorf("%s shows a token", name)
	}
	got = strings.ReplaceAll(got, n.name, "NAMESPACE")
	for _, v := range volatile {
		got = v.pattern.ReplaceAllString(got, v.text)
	}
	path := filepath.Join("testdata/plugin", name+".golden")
	if *update {
		must(n.t, os.WriteFile(path, []byte(got), 0o644), "writing %s", path)
		return
	}
	want, err := os.ReadFile(path)
	must(n.t, err, "reading %s", path)
	if diff := cmp.Diff(string(want), got); diff != "" {
		n.t.Errorf("%s (-file +plugin):\n%s", path, diff)
	}
}

// The commands about pods, on a pod that has its token.
func TestPluginOnARunningPod(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience.vault", "vault https://vault.example.com"), podSpec())
	n.ready("pod")
	for name, args := range map[string][]string{
		"status":      {"status"},
		"status-json": {"status", "pod", "-o", "json"},
		"inspect":     {"inspect", "pod", "vault"},
		"explain":     {"explain", "pod"},
		"policy":      {"policy"},
		"check":       {"policy", "check", serviceAccount, "vault", "other"},
		"complete":    {"__complete", "status", ""},
	} {
		stdout, stderr, code := n.plugin("", args...)
		if code != 0 || stderr != "" && name != "complete" {
			t.Errorf("%q ends with exit code %d: %s", args, code, stderr)
		}
		n.golden(name, stdout)
	}
	for name, args := range map[string][]string{
		"no-such-pod":   {"status", "nowhere"},
		"no-such-token": {"inspect", "pod", "other"},
		"no-such-type":  {"explain", "somethings/pod"},
	} {
		stdout, stderr, code := n.plugin("", args...)
		if code != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q ends with exit code %d, prints %q", args, code, stdout)
		}
		n.golden(name, stderr)
	}
}

// A pod that asks for nothing, because its Deployment has the annotations in the wrong place; and one that waits for a grant.
func TestPluginExplainsMistakes(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	labels := map[string]string{"app": "app"}
	_, err := n.client.AppsV1().Deployments(n.name).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "app", Annotations: annotations("audience.vault", "vault")},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()},
		},
	}, metav1.CreateOptions{})
	must(t, err, "creating a Deployment")
	var pod string
	eventually(t, pollShort, "the Deployment has a pod", func(ctx context.Context) (bool, error) {
		pods, err := n.client.CoreV1().Pods(n.name).List(ctx, metav1.ListOptions{LabelSelector: "app=app"})
		if err != nil || len(pods.Items) == 0 {
			return false, err
		}
		pod = pods.Items[0].Name
		return true, nil
	})
	for name, argument := range map[string]string{"misplaced": "deployment/app", "misplaced-pod": pod} {
		stdout, _, code := n.plugin("", "explain", argument)
		if code != 1 {
			t.Errorf("explain %s ends with exit code %d", argument, code)
		}
		n.golden(name, strings.ReplaceAll(stdout, pod, "POD"))
	}

	n.account("nobody")
	n.block("nobody")
	spec := podSpec()
	spec.ServiceAccountName = "nobody"
	n.create("stuck", annotations("audience.vault", "vault"), spec)
	n.until("stuck", "has failed to get its token", func(p *corev1.Pod) bool {
		s := p.Status.InitContainerStatuses
		return len(s) > 0 && s[0].LastTerminationState.Terminated != nil
	})
	stdout, _, code := n.plugin("", "explain", "stuck")
	for _, want := range []string{
		`Role "podtoken:nobody" without the label podtoken.dev/grant: "true" is in the way of the grant`, `audience "vault": delete or rename it`,
		"the sidecar does not run", "GrantConflict",
	} {
		if code != 1 || !strings.Contains(stdout, want) {
			t.Errorf("explain of a pod without a grant ends with exit code %d and lacks %q:\n%s", code, want, stdout)
		}
	}

	unserved := n.in(t)
	unserved.name = metav1.NamespaceSystem
	stdout, _, code = unserved.plugin("apiVersion: v1\nkind: Pod\nmetadata: {name: x, annotations: {podtoken.dev/audience: x}}\nspec: {containers: [{name: app, image: x}]}", "explain", "-f", "-")
	if code != 1 || !strings.Contains(stdout, "are never injected") {
		t.Errorf("explain in an excluded namespace ends with exit code %d:\n%s", code, stdout)
	}
}

// What `inject --from-cluster` prints is what the cluster's webhook makes of the same pod, and is admitted as it is, and runs.
func TestPluginInjectsAsTheWebhook(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	asked := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: n.name, Annotations: annotations("audience.vault", "vault", "expiration", "20m")},
		Spec:       podSpec(),
	}
	asked.Spec.AutomountServiceAccountToken = ptr(false) // its volume has a random name and place
	manifest, err := yaml.Marshal(asked)
	must(t, err, "encoding the pod")
	stdout, stderr, code := n.plugin(string(manifest), "inject", "-f", "-", "--from-cluster")
	if code != 0 || stderr != "" {
		t.Fatalf("inject ends with exit code %d: %s", code, stderr)
	}
	var injected corev1.Pod
	must(t, yaml.UnmarshalStrict([]byte(stdout), &injected), "decoding what inject prints")
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: "Strict"}
	byWebhook, err := n.client.CoreV1().Pods(n.name).Create(t.Context(), asked.DeepCopy(), dryRun)
	must(t, err, "having the webhook inject the pod")
	byPlugin, err := n.client.CoreV1().Pods(n.name).Create(t.Context(), injected.DeepCopy(), dryRun)
	must(t, err, "creating what inject printed")
	if diff := cmp.Diff(essence(t, byWebhook), essence(t, byPlugin)); diff != "" {
		t.Errorf("webhook and inject differ (-webhook +inject):\n%s", diff)
	}
	_, err = n.client.CoreV1().Pods(n.name).Create(t.Context(), &injected, metav1.CreateOptions{FieldValidation: "Strict"})
	must(t, err, "creating what inject printed")
	n.ready("pod")
	n.token("pod", "app", api.DefaultMountPath+"/vault")

	diff, _, code := n.plugin(string(manifest), "inject", "-f", "-", "--diff")
	if code != 0 || !strings.Contains(diff, "+    podtoken.dev/injected: \"true\"\n") {
		t.Errorf("inject --diff ends with exit code %d:\n%s", code, diff)
	}
}

// essence is a pod without what differs at each creation.
func essence(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	pod = pod.DeepCopy()
	pod.UID, pod.CreationTimestamp, pod.ManagedFields = "", metav1.Time{}, nil
	encoded, err := json.MarshalIndent(pod, "", " ")
	must(t, err, "encoding a pod")
	// The webhook of these tests is of another version than the chart.
	return regexp.MustCompile(`\\"version\\":\\"[^"]+"`).ReplaceAllString(string(encoded), "VERSION")
}

// A kubeconfig of the plugin is good for its ServiceAccount, until its pod is gone.
func TestPluginKubeconfig(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", nil, podSpec())
	n.ready("pod")
	path := filepath.Join(t.TempDir(), "ci.kubeconfig")
	stdout, stderr, code := n.plugin("", "kubeconfig", serviceAccount, "--pod", "pod", "--expiration", "10m", "--write", path)
	if code != 0 || stdout != "" {
		t.Fatalf("kubeconfig ends with exit code %d: %s", code, stderr)
	}
	n.golden("kubeconfig", stderr)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v (%v)", info.Mode(), err)
	}
	whoami := func() (string, error) {
		return n.cluster.Kubectl(t.Context(), nil, "--kubeconfig", path, "auth", "whoami", "-o", "json")
	}
	out, err := whoami()
	if err != nil || !strings.Contains(out, "system:serviceaccount:"+n.name+":"+serviceAccount) || !strings.Contains(out, `"authentication.kubernetes.io/pod-name"`) {
		t.Errorf("who has the file is %s (%v)", out, err)
	}
	none := int64(0)
	must(t, n.client.CoreV1().Pods(n.name).Delete(t.Context(), "pod", metav1.DeleteOptions{GracePeriodSeconds: &none}), "deleting the pod")
	eventually(t, 2*time.Minute, "the kubeconfig has ended with its pod", func(context.Context) (bool, error) {
		_, err := whoami()
		return err != nil && strings.Contains(err.Error(), "Unauthorized"), nil
	})
	if _, stderr, code := n.plugin("", "kubeconfig", serviceAccount, "--expiration", "13h"); code != 1 || !strings.Contains(stderr, "10m to 12h") {
		t.Errorf("13 hours: exit code %d, %s", code, stderr)
	}
}

// doctor finds nothing wrong with the installation of these tests, by way of kubectl; the policy allows what it should not, as the
// tests ask for it. Serial, since others change the installation.
func TestPluginDoctor(t *testing.T) {
	n := newNamespace(t, nil)
	directory, err := pluginDirectory()
	must(t, err, "building the plugin")
	t.Setenv("PATH", directory+string(os.PathListSeparator)+os.Getenv("PATH"))
	stdout, err := n.cluster.Kubectl(t.Context(), nil, "podtoken", "doctor", "-n", n.name)
	must(t, err, "running kubectl podtoken doctor")
	// An API server shows its flags from 1.36 on.
	want := "ok"
	if version(t).Minor < "1.36" {
		want = "note"
	}
	lifetime := regexp.MustCompile(`(?m)^(\w+) +token lifetime .*\n`)
	if found := lifetime.FindStringSubmatch(stdout); found == nil || found[1] != want {
		t.Errorf("doctor says of token lifetimes %q, want %q:\n%s", found, want, stdout)
	}
	n.golden("doctor", lifetime.ReplaceAllString(stdout, ""))
	rules, stderr, code := n.plugin("", "policy", "rules")
	if code != 0 {
		t.Errorf("policy rules ends with exit code %d: %s", code, stderr)
	}
	n.golden("rules", rules)

	// A user without permissions gets that as the answer, and no problem is reported.
	stdout, stderr, code = n.plugin("", "doctor", "--as", "somebody")
	if code != 0 || strings.Count(stdout, "you may not") < 5 {
		t.Errorf("doctor as somebody ends with exit code %d:\n%s%s", code, stdout, stderr)
	}
}
