package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// The example application in Go runs in a pod of podtoken's, and notices at its next call that its token was replaced. The
// others are run by the test beside them, against the sidecar's way to replace a file.
func TestExampleApplication(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	image, err := testCluster.BuildGoImage(t.Context(), "..", "./manifests/examples/apps/go", "podtoken.test/example:1")
	must(t, err, "building the application's image")
	spec := podSpec()
	app := container("app")
	app.Image, app.Command = image, nil
	app.Env = []corev1.EnvVar{{Name: "SERVICE_URL", Value: "http://localhost:8080/"}, {Name: "EVERY_SECONDS", Value: "0.2"}}
	service := container("service", "sh", "-c", "echo hello >/tmp/index.html && exec httpd -f -p 8080 -h /tmp")
	service.Image = testCluster.Image(cluster.ImageBusybox)
	spec.Containers = []corev1.Container{app, service}
	n.create("pod", annotations("audience.vault", "vault", "skip-containers", "service"), spec)
	n.ready("pod")
	said := func(what string) {
		t.Helper()
		eventually(t, time.Minute, fmt.Sprintf("the application says %q", what), func(context.Context) (bool, error) {
			return strings.Contains(n.logs("pod", "app"), what), nil
		})
	}
	said("the service answered 200")
	if strings.Contains(n.logs("pod", "app"), "the token has changed") {
		t.Error("the application says that its token has changed, and it has not")
	}
	_, err = n.exec("pod", api.ContainerName, api.SidecarBinary, api.CommandRefresh)
	must(t, err, "refreshing")
	said("the token has changed")
	if strings.Contains(n.logs("pod", "app"), "eyJ") {
		t.Error("the application shows a token")
	}
}

// What docs/installation.md and docs/troubleshooting.md say that people see is what they see.
func TestWhatTheGuidesSay(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience.vault", "vault"), podSpec())
	n.ready("pod")
	for name, row := range map[string]struct {
		manifest string
		args     []string
		want     []string
	}{
		"the guard guards": {
			args: []string{"-n", n.name, "create", "token", serviceAccount, "--as=system:serviceaccount:" + n.name + ":" + serviceAccount},
			want: []string{"ValidatingAdmissionPolicy 'podtoken-guard' with binding 'podtoken-guard' denied request: podtoken: ", "only with a credential that is bound to a pod"},
		},
		"a refusal of the webhook": {
			manifest: fmt.Sprintf(podManifest, "denied", n.name, "podtoken.dev/file-mode: x", probeImage),
			args:     []string{"apply", "-f", "-"},
			want:     []string{`Error from server (InvalidValue)`, `admission webhook "pods.podtoken.dev" denied the request: podtoken: `},
		},
		"a refusal of a policy": {
			manifest: strings.Replace(fmt.Sprintf(podManifest, "denied", "kube-system", `podtoken.dev/wait: "true"`, probeImage), ": app\n", ": default\n", 1),
			args:     []string{"apply", "-f", "-"},
			want:     []string{"ValidatingAdmissionPolicy 'podtoken-enforce' with binding 'podtoken-enforce' denied request: podtoken: the pod has podtoken annotations and was not injected"},
		},
	} {
		out, err := testCluster.Kubectl(t.Context(), strings.NewReader(row.manifest), row.args...)
		if err != nil {
			out += err.Error()
		} else {
			t.Errorf("%s: kubectl succeeded:\n%s", name, out)
		}
		for _, want := range row.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: nothing of %q in:\n%s", name, want, out)
			}
		}
	}
	policies, err := testCluster.Kubectl(t.Context(), nil, "get", "validatingadmissionpolicies,validatingadmissionpolicybindings", "-o", "name")
	must(t, err, "listing policies")
	for _, name := range []string{"podtoken-guard", "podtoken-controller-guard", "podtoken-grants", "podtoken-enforce", "podtoken-ephemeralcontainers"} {
		for _, kind := range []string{"validatingadmissionpolicy", "validatingadmissionpolicybinding"} {
			if !strings.Contains(policies, kind+".admissionregistration.k8s.io/"+name+"\n") {
				t.Errorf("there is no %s %s", kind, name)
			}
		}
	}
}
