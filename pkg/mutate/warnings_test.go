package mutate

import (
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
)

// mutateSpec is the answer for a Pod of that spec that asks for the token "a".
func mutateSpec(t *testing.T, spec, annotations string) Result {
	t.Helper()
	pod := decodePod(t, []byte(`{"metadata": {"annotations": {"podtoken.dev/audience.a": "a"`+annotations+`}}, "spec": `+spec+`}`))
	return Mutate(Input{Pod: pod, Operation: "CREATE", Config: parsedConfig(t, defaultConfig)})
}

// TestMountsAboveTheTokens: for every kind of volume, whether the kubelet or the runtime can make the place of our mount in it.
func TestMountsAboveTheTokens(t *testing.T) {
	const warned = `container "app" mounts the volume "v" read-only at`
	spec := func(source, mount string) string {
		return `{"containers": [{"name": "app", "volumeMounts": [{"name": "v", ` + mount + `}]}], "volumes": [{"name": "v", ` + source + `}]}`
	}
	const above, writable = `"mountPath": "/var/run/secrets", "readOnly": true`, `"mountPath": "/var/run/secrets"`
	for name, row := range map[string]struct {
		spec, annotations string
		warned            bool
	}{
		"emptyDir":                    {spec(`"emptyDir": {}`, above), "", true},
		"a volume without source":     {spec(`"emptyDir": null`, above), "", true},
		"hostPath":                    {spec(`"hostPath": {"path": "/x"}`, above), "", true},
		"a claim":                     {spec(`"persistentVolumeClaim": {"claimName": "x"}`, above), "", true},
		"a claim that is read-only":   {spec(`"persistentVolumeClaim": {"claimName": "x", "readOnly": true}`, writable), "", true},
		"csi":                         {spec(`"csi": {"driver": "x", "readOnly": true}`, writable), "", true},
		"ephemeral":                   {spec(`"ephemeral": {}`, above), "", true},
		"nfs":                         {spec(`"nfs": {"readOnly": true}`, writable), "", true},
		"image":                       {spec(`"image": {"reference": "x"}`, writable), "", true},
		"a source of a later version": {spec(`"future": {"readOnly": true}`, writable), "", true},
		"configMap":                   {spec(`"configMap": {"name": "x"}`, above), "", false},
		"a part of a configMap":       {spec(`"configMap": {"name": "x"}`, above+`, "subPath": "y"`), "", true},
		"a relative path":             {spec(`"emptyDir": {}`, `"mountPath": "var/run", "readOnly": true`), "", true},
		"writable between": {`{"containers": [{"name": "app", "volumeMounts": [{"name": "w", "mountPath": "/var/run/secrets"}, {"name": "v", "mountPath": "/var/run", "readOnly": true}]}],
			"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]}`, "", false},
		"secret":                        {spec(`"secret": {"secretName": "x"}`, above), "", false},
		"projected":                     {spec(`"projected": {}`, above), "", false},
		"downwardAPI":                   {spec(`"downwardAPI": {}`, above), "", false},
		"writable":                      {spec(`"emptyDir": {}`, writable), "", false},
		"beside":                        {spec(`"emptyDir": {}`, `"mountPath": "/var/run/secrets/x", "readOnly": true`), "", false},
		"of a like name":                {spec(`"emptyDir": {}`, `"mountPath": "/var/run/secret", "readOnly": true`), "", false},
		"over everything":               {spec(`"emptyDir": {}`, `"mountPath": "/", "readOnly": true`), "", true},
		"written in another way":        {spec(`"emptyDir": {}`, `"mountPath": "/var//run/", "readOnly": true`), "", true},
		"a container without tokens":    {spec(`"emptyDir": {}`, above), `, "podtoken.dev/skip-containers": "app"`, false},
		"elsewhere":                     {spec(`"emptyDir": {}`, above), `, "podtoken.dev/mount-path": "/tokens"`, false},
		"a volume that the Pod has not": {spec(`"name": "w"`, above), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a container without tokens" {
				row.spec = strings.Replace(row.spec, `"containers": [`, `"containers": [{"name": "other"}, `, 1)
			}
			got := mutateSpec(t, row.spec, row.annotations)
			if got.Outcome != api.OutcomeInjected || strings.Contains(strings.Join(got.Warnings, "\n"), warned) != row.warned {
				t.Errorf("%s: %s, warnings %q", got.Outcome, got.Message, got.Warnings)
			}
		})
	}
}

// TestWindows: a Pod that can run only on Windows is denied, by each field that can demand it.
func TestWindows(t *testing.T) {
	affinity := func(terms string) string {
		return `"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [` + terms + `]}}}`
	}
	term := func(key, operator, values string) string {
		return `{"matchExpressions": [{"key": "a", "operator": "Exists"}, {"key": "` + key + `", "operator": "` + operator + `", "values": [` + values + `]}]}`
	}
	const stable, beta = "kubernetes.io/os", "beta.kubernetes.io/os"
	for name, row := range map[string]struct {
		spec           string
		denied, warned string
	}{
		"spec.os":                          {`"os": {"name": "windows"}`, `spec.os.name "windows"`, ""},
		"the label":                        {`"nodeSelector": {"kubernetes.io/os": "windows"}`, "spec.nodeSelector kubernetes.io/os", ""},
		"the old label":                    {`"nodeSelector": {"beta.kubernetes.io/os": "windows"}`, "spec.nodeSelector beta.kubernetes.io/os", ""},
		"a build of Windows":               {`"nodeSelector": {"node.kubernetes.io/windows-build": "10.0.20348"}`, "spec.nodeSelector node.kubernetes.io/windows-build", ""},
		"affinity":                         {affinity(term(stable, "In", `"windows"`)), "the required node affinity to kubernetes.io/os", ""},
		"affinity by the old label":        {affinity(term(beta, "In", `"windows"`)), "the required node affinity to beta.kubernetes.io/os", ""},
		"affinity by either":               {affinity(term(beta, "In", `"windows"`) + "," + term(stable, "In", `"windows","windows"`)), "the required node affinity", ""},
		"affinity away from Linux":         {affinity(term(stable, "NotIn", `"linux"`)), "the required node affinity", ""},
		"affinity to a build":              {affinity(term("node.kubernetes.io/windows-build", "Exists", "")), "the required node affinity", ""},
		"affinity to one or the other":     {affinity(term(stable, "In", `"windows","linux"`)), "", ""},
		"affinity away from Windows":       {affinity(term(stable, "NotIn", `"windows"`)), "", ""},
		"affinity away from both":          {affinity(term(stable, "NotIn", `"windows","linux"`)), "", ""},
		"affinity of one of two":           {affinity(term(stable, "In", `"windows"`) + "," + term("b", "In", `"c"`)), "", ""},
		"affinity without terms":           {affinity(""), "", ""},
		"affinity without expressions":     {affinity("{}"), "", ""},
		"affinity to no value":             {affinity(term(stable, "In", "")), "", ""},
		"affinity to any label's windows":  {affinity(term("os", "In", `"windows"`)), "", ""},
		"affinity without a requirement":   {`"affinity": {"nodeAffinity": {}}`, "", ""},
		"Linux":                            {`"nodeSelector": {"kubernetes.io/os": "linux", "beta.kubernetes.io/os": "linux"}, "os": {"name": "linux"}`, "", ""},
		"options of the Pod":               {`"securityContext": {"windowsOptions": {"runAsUserName": "x"}}`, "", "spec.securityContext.windowsOptions"},
		"options of a Pod for Linux nodes": {`"securityContext": {"windowsOptions": {}}, "nodeSelector": {"kubernetes.io/os": "linux"}`, "", ""},
		"options that are null":            {`"securityContext": {"windowsOptions": null}`, "", ""},
		"options of a Pod for Linux":       {`"securityContext": {"windowsOptions": {}}, "os": {"name": "linux"}`, "", ""},
		"options of an init container":     {`"initContainers": [{"name": "i", "securityContext": {"windowsOptions": {}}}]`, "", `container "i": securityContext.windowsOptions`},
		"options, and the label tells it":  {`"securityContext": {"windowsOptions": {}}, "nodeSelector": {"kubernetes.io/os": "windows"}`, "spec.nodeSelector", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := mutateSpec(t, `{`+row.spec+`, "containers": [{"name": "app"}]}`, "")
			warnings := strings.Join(got.Warnings, "\n")
			if (got.Reason == api.ReasonUnsupported) != (row.denied != "") || !strings.Contains(got.Message, row.denied) {
				t.Errorf("%s: %s, want a denial with %q", got.Reason, got.Message, row.denied)
			}
			if strings.Contains(warnings, "indows") != (row.warned != "") || !strings.Contains(warnings, row.warned) {
				t.Errorf("warnings %q, want %q", got.Warnings, row.warned)
			}
		})
	}
}

func TestAudienceMistakes(t *testing.T) {
	for audience, want := range map[string]string{
		`["vault"`: `begins with "["`, `vault"]`: `ends with "]"`, `'vault'`: "begins with", `{vault}`: "begins with", `vault)`: "ends with", "`vault`": "begins with",
		`<audience>`: "begins with", `{{`: `"{{" looks like a template`, `https://{{host}}/x`: "looks like a template", `${AUDIENCE}`: "looks like a template", `$(AUDIENCE)`: "looks like a template",
		"vault": "", "https://vault.example.com/v1?a=b": "", "api://AzureADTokenExchange": "", "//iam.googleapis.com/projects/1": "", "a$b": "", "https://[fd00::1]": "", "spiffe://x/y": "", "urn:a:b": "",
	} {
		if got := audienceMistake(audience); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", audience, got, want)
		}
	}
}

// TestSignalsAndRoot: a signal arrives if the sidecar has the user of the processes; an init container that runs as root has ended by then, another container has not.
func TestSignalsAndRoot(t *testing.T) {
	const spec = `{"shareProcessNamespace": true, "securityContext": {"runAsUser": 7}, "containers": [{"name": "app"}], "initContainers": [{"name": "i", "securityContext": {"runAsUser": 0}`
	const annotations = `, "podtoken.dev/notify-signal": "SIGHUP:nginx"`
	if got := mutateSpec(t, spec+`}]}`, annotations); got.Outcome != api.OutcomeInjected {
		t.Errorf("an init container: %s", got.Message)
	}
	if got := mutateSpec(t, spec+`, "restartPolicy": "Always"}]}`, annotations); got.Outcome != api.OutcomeDenied {
		t.Errorf("a sidecar: %s", got.Message)
	}
}
