//go:build helm

package rendertest

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	chart  = "../../../charts/podtoken"
	digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// helm runs $HELM away from the user's settings and clusters.
func helm(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	path := os.Getenv("HELM")
	if path == "" {
		t.Fatal("HELM is not set: set it to the path of helm 4")
	}
	readChart(t)
	home := t.TempDir()
	command := exec.CommandContext(t.Context(), path, args...)
	command.Env = append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+home+"/none")
	var out, problems bytes.Buffer
	command.Stdout, command.Stderr = &out, &problems
	if err := command.Run(); err != nil {
		return problems.String(), err
	}
	return out.String(), nil
}

// readChart opens every file of the chart: go test takes a result out of its cache unless a file changed that the test
// itself, not a program that it runs, has opened.
func readChart(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(chart, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		_, err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// render returns the rendered chart for a release "podtoken" in "podtoken-system", unless the arguments say otherwise.
func render(t *testing.T, args ...string) string {
	t.Helper()
	out, err := helm(t, append([]string{"template", "podtoken", chart, "--namespace=podtoken-system", "--kube-version=1.33.0"}, args...)...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return out
}

// values returns what stands behind a key, in the order of the render, without quotes.
func values(rendered, key string) []string {
	var found []string
	for _, match := range regexp.MustCompile(`(?m)^[ -]*`+regexp.QuoteMeta(key)+`: (.*)$`).FindAllStringSubmatch(rendered, -1) {
		found = append(found, strings.Trim(match[1], `"`))
	}
	return found
}

func TestRefusedValues(t *testing.T) {
	tests := map[string]struct{ set, want string }{
		"an unknown key":                     {"webhok.replicas=2", "'webhok' not allowed"},
		"an unknown key further down":        {"webhook.replica=2", "at '/webhook': additional properties 'replica' not allowed"},
		"an unknown key of resources":        {"sidecar.resources.limit.memory=1Mi", "at '/sidecar/resources': additional properties 'limit' not allowed"},
		"no replicas":                        {"webhook.replicas=0", "at '/webhook/replicas'"},
		"a log level that does not exist":    {"webhook.logLevel=loud", "at '/webhook/logLevel'"},
		"a pull policy in lower case":        {"image.pullPolicy=always", "at '/image/pullPolicy'"},
		"a registry with a slash at the end": {"image.registry=images.example.com/", "at '/image/registry'"},
		"a registry with a scheme":           {"image.registry=https://images.example.com", "at '/image/registry'"},
		"a tag inside the repository":        {"sidecar.image.tag=a:b", "at '/sidecar/image/tag'"},
		"half a digest":                      {"sidecar.image.digest=sha256:0123", "at '/sidecar/image/digest'"},
		"a sidecar that is root":             {"sidecar.runAsUser=0", "at '/sidecar/runAsUser'"},
		"a sidecar with the group of root":   {"sidecar.runAsGroup=0", "at '/sidecar/runAsGroup'"},
		"a webhook that is root":             {"webhook.runAsUser=0", "at '/webhook/runAsUser'"},
		"a quantity with a wrong unit":       {"sidecar.resources.limits.memory=16MB", "at '/sidecar/resources/limits/memory'"},
		"guaranteed resources without one":   {"sidecar.guaranteedResources.cpu=null", "missing property 'cpu'"},
		"another word for BestEffort":        {"sidecar.bestEffort=Never", "at '/sidecar/bestEffort'"},
		"a lifetime without a unit":          {"tokens.maxExpiration=3600", "at '/tokens/maxExpiration'"},
		"a lifetime in days":                 {"tokens.maxExpiration=1d", "at '/tokens/maxExpiration'"},
		"no tokens at all":                   {"tokens.maxPerPod=0", "at '/tokens/maxPerPod'"},
		"more audiences than a Role takes":   {"tokens.maxAudiencesPerServiceAccount=1025", "at '/tokens/maxAudiencesPerServiceAccount'"},
		"no audiences in a namespace":        {"tokens.maxAudiencesPerNamespace=0", "at '/tokens/maxAudiencesPerNamespace'"},
		"a rule without audiences":           {"policy.allow[1].namespaces={a}", "at '/policy/allow/1': missing properties 'serviceAccounts', 'audiences'"},
		"a rule with a word unknown":         {"policy.allow[0].namespace=a", "at '/policy/allow/0': additional properties 'namespace' not allowed"},
		"a rule without a namespace":         {"policy.allow[0].namespaces[0]=", "at '/policy/allow/0/namespaces/0'"},
		"an audience with a blank":           {"policy.allow[0].audiences={a b}", "at '/policy/allow/0/audiences/0'"},
		"a namespace that is no glob":        {"policy.rbacNamespaces={prod-[a-z]}", "at '/policy/rbacNamespaces/0'"},
		"a delay without a unit":             {"controller.removalDelay=600", "at '/controller/removalDelay'"},
		"a controller that is root":          {"controller.runAsUser=0", "at '/controller/runAsUser'"},
		"a guard that is neither":            {"guard.static=maybe", "at '/guard/static'"},
		"a label that selects":               {`commonLabels.app\.kubernetes\.io/name=x`, "invalid propertyName 'app.kubernetes.io/name'"},
		"an affinity that is none":           {"webhook.affinity.podAfinity=x", "at '/webhook/affinity'"},
		"an annotation that is no text":      {"webhook.podAnnotations.a=1", "at '/webhook/podAnnotations/a'"},
		"a port that is none":                {"networkPolicy.apiServerPorts={0}", "at '/networkPolicy/apiServerPorts/0'"},
		"an address that is no network":      {"networkPolicy.apiServerCIDRs={10.0.0.1}", "at '/networkPolicy/apiServerCIDRs/0'"},
		"a place behind all ServiceAccounts": {"flowSchema.matchingPrecedence=9000", "at '/flowSchema/matchingPrecedence'"},
		"a place before kube-system's":       {"flowSchema.matchingPrecedence=900", "at '/flowSchema/matchingPrecedence'"},
		"a level without seats":              {"flowSchema.nominalConcurrencyShares=0", "at '/flowSchema/nominalConcurrencyShares'"},
		"more than all seats":                {"flowSchema.lendablePercent=101", "at '/flowSchema/lendablePercent'"},
		"a level of others":                  {"flowSchema.enabled=true,flowSchema.priorityLevel=workload-high", "flowSchema.priorityLevel (workload-high) is not a value any more"},
		"seats that are borrowed":            {"flowSchema.borrowingLimitPercent=100", "at '/flowSchema': additional properties 'borrowingLimitPercent' not allowed"},
		"a test without audience":            {"test.audience=", "at '/test/audience'"},
		"an issuer without a name":           {"tls.certManager.issuerRef.kind=ClusterIssuer", "at '/tls/certManager/issuerRef'"},
		"a mode that does not exist":         {"tls.mode=vault", "at '/tls/mode'"},
		"a bundle that is none":              {"tls.mode=secret,tls.secret.name=a,tls.secret.caBundle=YQ==", "at '/tls/secret/caBundle'"},
		"a Secret's name that cannot be":     {"tls.mode=secret,tls.secret.name=A", "at '/tls/secret/name'"},
		"a key unknown beside the mode":      {"tls.secret.caFile=x", "at '/tls/secret': additional properties 'caFile' not allowed"},
		"mode secret without a Secret":       {"tls.mode=secret", "tls.mode=secret needs tls.secret.name"},
		"mode secret without a CA":           {"tls.mode=secret,tls.secret.name=a", "and tls.secret.caBundle, the PEM certificates of the CA"},
		"a Secret in another mode":           {"tls.secret.name=a", "have no effect with tls.mode=certManager"},
		"a Secret in mode selfManaged":       {"tls.mode=selfManaged,tls.secret.name=a", "have no effect with tls.mode=selfManaged"},
		"a private key for everybody":        {"tls.mode=secret,tls.secret.name=a,tls.secret.caBundle=-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----", "has a private key"},
		"a client CA that is none":           {"webhook.clientCA=YQ==", "at '/webhook/clientCA'"},
		"a client CA with its key":           {"webhook.clientCA=-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----", "at '/webhook/clientCA'"},
		"a value that is taken away":         {"webhook.drainSeconds=null", "missing property 'drainSeconds'"},
		"a list that is taken away":          {"webhook.excludeNamespaces=null", "missing property 'excludeNamespaces'"},
		"an interval without a unit":         {"metrics.serviceMonitor.interval=30", "at '/metrics/serviceMonitor/interval'"},
		"a monitor that is neither":          {"metrics.podMonitor.enabled=maybe", "at '/metrics/podMonitor/enabled'"},
		"a runbook with an anchor":           {"metrics.prometheusRule.runbookURL=a#b", "at '/metrics/prometheusRule/runbookURL'"},
		"a label that is no text":            {"metrics.dashboard.labels.a=1", "at '/metrics/dashboard/labels/a'"},
		"a namespace that cannot exist":      {"webhook.excludeNamespaces={Monitoring}", "at '/webhook/excludeNamespaces/0'"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := helm(t, "template", "podtoken", chart, "--kube-version=1.33.0", "--set", test.set)
			if err == nil || !strings.Contains(out, test.want) {
				t.Errorf("--set %s: got error %v, want %q in:\n%s", test.set, err, test.want, out)
			}
		})
	}
}

func TestOldKubernetesIsRefused(t *testing.T) {
	out, err := helm(t, "template", "podtoken", chart, "--kube-version=1.32.9")
	if err == nil || !strings.Contains(out, "requires kubeVersion: >=1.33.0-0") {
		t.Errorf("got error %v:\n%s", err, out)
	}
	// Builds of cloud providers have suffixes, which semantic versioning takes for pre-releases.
	render(t, "--kube-version=1.33.0-gke.100")
}

func TestImages(t *testing.T) {
	tests := map[string]struct {
		set  []string
		want []string // the sidecar's in the ConfigMap, the controller's and the webhook's in the Deployments, the sidecar's in the test, the controller's in the hook
	}{
		"as it comes":                  {nil, images("podtoken/sidecar:0.1.0", "podtoken/webhook:0.1.0")},
		"the registry before all":      {[]string{"image.registry=images.example.com:5000/a"}, []string{"images.example.com:5000/a/podtoken/sidecar:0.1.0", "images.example.com:5000/a/podtoken/controller:0.1.0", "images.example.com:5000/a/podtoken/webhook:0.1.0", "images.example.com:5000/a/podtoken/sidecar:0.1.0", "images.example.com:5000/a/podtoken/controller:0.1.0"}},
		"a tag before the appVersion":  {[]string{"webhook.image.tag=v9"}, images("podtoken/sidecar:0.1.0", "podtoken/webhook:v9")},
		"a digest before the tag":      {[]string{"sidecar.image.tag=v9", "sidecar.image.digest=" + digest}, images("podtoken/sidecar@"+digest, "podtoken/webhook:0.1.0")},
		"a repository with a registry": {[]string{"sidecar.image.repository=images.example.com/s"}, images("images.example.com/s:0.1.0", "podtoken/webhook:0.1.0")},
		"the controller's own":         {[]string{"controller.image.tag=v9"}, []string{"podtoken/sidecar:0.1.0", "podtoken/controller:v9", "podtoken/webhook:0.1.0", "podtoken/sidecar:0.1.0", "podtoken/controller:v9"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var args []string
			for _, set := range test.set {
				args = append(args, "--set", set)
			}
			if diff := cmp.Diff(test.want, values(render(t, args...), "image")); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
		})
	}
}

// images are those of a render in which the controller's is the chart's own.
func images(sidecar, webhook string) []string {
	return []string{sidecar, "podtoken/controller:0.1.0", webhook, sidecar, "podtoken/controller:0.1.0"}
}

// TestNullLeavesTheUserToThePlatform: on OpenShift any fixed user or group would be refused.
func TestNullLeavesTheUserToThePlatform(t *testing.T) {
	rendered := render(t, "--set", "webhook.runAsUser=null,controller.runAsUser=null,sidecar.runAsUser=null,sidecar.runAsGroup=null")
	for key, want := range map[string][]string{"runAsUser": {"null"}, "runAsGroup": {"null"}, "fsGroup": nil, "runAsNonRoot": {"true", "true", "true", "true"}} {
		if got := values(rendered, key); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

func TestLargeNumbersStayNumbers(t *testing.T) {
	rendered := render(t, "--set", "webhook.runAsUser=1000650000,controller.runAsUser=1000650000,sidecar.runAsUser=1000650000")
	if got, want := values(rendered, "runAsUser"), []string{"1000650000", "1000650000", "1000650000", "1000650000", "1000650000"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDefaultsCanBeRemoved(t *testing.T) {
	rendered := render(t, "--set", "webhook.resources.limits=null,controller.resources.limits=null,sidecar.resources.limits=null,webhook.priorityClassName=,controller.priorityClassName=")
	for _, key := range []string{"limits", "priorityClassName"} {
		if strings.Contains(rendered, key+":") {
			t.Errorf("%s is still there:\n%s", key, rendered)
		}
	}
}

func TestNames(t *testing.T) {
	tests := map[string]struct{ release, want string }{
		"the chart's":          {"podtoken", "podtoken"},
		"holds the chart's":    {"my-podtoken", "my-podtoken"},
		"another":              {"tokens", "tokens-podtoken"},
		"the longest possible": {strings.Repeat("a", 53), strings.Repeat("a", 31) + "-podtoken"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := helm(t, "template", test.release, chart, "--namespace=elsewhere", "--kube-version=1.33.0")
			if err != nil {
				t.Fatal(out)
			}
			if !strings.Contains(out, "kind: MutatingWebhookConfiguration\nmetadata:\n  name: "+test.want+"\n") {
				t.Errorf("the webhook configuration is not named %s:\n%s", test.want, out)
			}
			names := values(out, "name")
			for _, suffix := range []string{"-webhook", "-webhook-ca", "-webhook-tls", "-webhook-selfsigned", "-controller", "-controller-guard", "-guard", "-grants", "-enforce", "-ephemeralcontainers", "-policy"} {
				if !slices.Contains(names, test.want+suffix) {
					t.Errorf("nothing is named %s", test.want+suffix)
				}
			}
			for _, object := range names {
				if len(object) > 63 {
					t.Errorf("name %s is too long for a Service", object)
				}
			}
			// The namespace of the release, wherever it is, never depends on the webhook that runs in it.
			if !strings.Contains(out, "- kube-node-lease\n            - elsewhere\n") || strings.Contains(out, "podtoken-system") {
				t.Errorf("the release's own namespace is not excluded:\n%s", out)
			}
		})
	}
}

func TestIssuerOfTheUser(t *testing.T) {
	rendered := render(t, "--set", "tls.certManager.issuerRef.name=company")
	if strings.Contains(rendered, "kind: Issuer\nmetadata") || strings.Count(rendered, "kind: Certificate\n") != 1 {
		t.Errorf("there are issuers of the chart's own:\n%s", rendered)
	}
	if !strings.Contains(rendered, "issuerRef:\n    name: company\n    kind: Issuer\n    group: cert-manager.io\n") {
		t.Errorf("the user's issuer is not asked:\n%s", rendered)
	}
}

// TestCertManagerIsNotAskedForWithoutACluster: what `helm template` and GitOps tools render is the same whatever the
// cluster has, which may get cert-manager in the same breath. e2e/tls_test.go has the cluster that says what is missing.
func TestCertManagerIsNotAskedForWithoutACluster(t *testing.T) {
	want := render(t)
	for name, versions := range map[string]string{
		"the groups of a cluster without": "v1,apps/v1,admissionregistration.k8s.io/v1",
		"its kinds too":                   "v1,v1/Service,apps/v1,apps/v1/Deployment",
		"a cluster that has it":           "v1,v1/Service,cert-manager.io/v1,cert-manager.io/v1/Certificate",
	} {
		if diff := cmp.Diff(want, render(t, "--api-versions="+versions)); diff != "" {
			t.Errorf("%s (-without +with):\n%s", name, diff)
		}
	}
}

// TestValuesOfARelease: helm upgrade --reuse-values brings the values of a release that had no modes yet, and a priorityLevel by
// default.
func TestValuesOfARelease(t *testing.T) {
	if diff := cmp.Diff(render(t), render(t, "--set", "flowSchema.priorityLevel=workload-high,flowSchema.nominalConcurrencyShares=null,flowSchema.lendablePercent=null")); diff != "" {
		t.Errorf("render (-default +with the old value):\n%s", diff)
	}
	if diff := cmp.Diff(render(t, "--set", "flowSchema.enabled=true"),
		render(t, "--set", "flowSchema.enabled=true,flowSchema.nominalConcurrencyShares=null,flowSchema.lendablePercent=null")); diff != "" {
		t.Errorf("render (-default +without the new values of flowSchema):\n%s", diff)
	}
	if diff := cmp.Diff(render(t), render(t, "--set", "tls.mode=null,tls.secret=null")); diff != "" {
		t.Errorf("render (-default +without the new values):\n%s", diff)
	}
}

// TestFlowSchema: token requests have a level of their own, which lends but never borrows, and is no level of Kubernetes.
func TestFlowSchema(t *testing.T) {
	out := render(t, "--set", "flowSchema.enabled=true,flowSchema.lendablePercent=0", "--show-only", "templates/flowschema.yaml")
	for key, want := range map[string][]string{
		"kind": {"FlowSchema", "Group", "PriorityLevelConfiguration"}, "name": {"podtoken-tokens", "podtoken-tokens", "system:serviceaccounts", "podtoken-tokens"},
		"nominalConcurrencyShares": {"10"}, "lendablePercent": {"0"}, "borrowingLimitPercent": {"0"}, "matchingPrecedence": {"8900"},
	} {
		if diff := cmp.Diff(want, values(out, key)); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", key, diff, out)
		}
	}
}

func TestNotesOfModes(t *testing.T) {
	for mode, want := range map[string]string{
		"certManager": "get certificate podtoken-webhook-tls", "selfManaged": `"path":"/data/ca.key"`, "secret": "podtoken-webhook.podtoken-system.svc",
	} {
		args := []string{"install", "podtoken", chart, "--namespace=podtoken-system", "--dry-run=client"}
		switch mode {
		case "secret":
			args = append(args, "--values="+chart+"/ci/secret-values.yaml")
		default:
			args = append(args, "--set=tls.mode="+mode)
		}
		out, err := helm(t, args...)
		_, notes, _ := strings.Cut(out, "\nNOTES:\n")
		if err != nil || !strings.Contains(notes, want) || strings.Contains(notes, "cert-manager") != (mode == "certManager") {
			t.Errorf("%s: %v, the notes have no %q, or name cert-manager:\n%s", mode, err, want, notes)
		}
	}
}

// TestAsDependency: Helm and parent charts put keys of their own into the values.
func TestAsDependency(t *testing.T) {
	render(t, "--set", "global.anything=1,enabled=true")
}

func TestNotes(t *testing.T) {
	out, err := helm(t, "install", "podtoken", chart, "--namespace=elsewhere", "--dry-run=client")
	if err != nil {
		t.Fatal(out)
	}
	_, notes, _ := strings.Cut(out, "\nNOTES:\n")
	for _, want := range []string{"-n elsewhere rollout status deployment/podtoken-webhook", "podtoken.dev/audience.", "/podtoken-sidecar check"} {
		if !strings.Contains(notes, want) {
			t.Errorf("the notes have no %q:\n%s", want, notes)
		}
	}
}
