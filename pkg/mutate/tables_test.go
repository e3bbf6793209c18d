package mutate

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// settledPlan is the plan for a pod that asks for the token "a", with more annotations as a JSON object's content.
func settledPlan(t *testing.T, spec, annotations, config string) *plan {
	t.Helper()
	pod := decodePod(t, []byte(`{"metadata": {"annotations": {"podtoken.dev/audience.a": "a"`+annotations+`}}, "spec": `+spec+`}`))
	cfg := parsedConfig(t, defaultConfig+config)
	req, problems := parse(pod.Metadata.Annotations, cfg)
	p, misfits := newPlan(Input{Pod: pod, Config: cfg}, req)
	if problems = append(problems, misfits...); len(problems) > 0 {
		t.Fatal(problems)
	}
	if wrong := p.settle(); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	return p
}

func TestUserAndMode(t *testing.T) {
	type want struct {
		User    string
		Group   string
		Mode    string
		SELinux string
	}
	user := func(id *int64) string { return string(mustJSON(id)) }
	const none = "null"
	tests := map[string]struct {
		spec        string
		annotations string
		config      string
		want        want
	}{
		"nothing explicit":               {spec: `{"containers": [{"name": "app"}]}`, want: want{"65532", "65531", "0444", none}},
		"the pod's user":                 {spec: `{"securityContext": {"runAsUser": 1000}, "containers": [{"name": "app"}, {"name": "b"}]}`, want: want{"1000", "65531", "0400", none}},
		"the pod's user wins over group": {spec: `{"securityContext": {"runAsUser": 1000, "fsGroup": 1}, "containers": [{"name": "app"}]}`, want: want{"1000", "65531", "0400", none}},
		"the pod is root":                {spec: `{"securityContext": {"runAsUser": 0}, "containers": [{"name": "app"}]}`, want: want{"65532", "65531", "0444", none}},
		"the pod is root, with a group":  {spec: `{"securityContext": {"runAsUser": 0, "fsGroup": 1}, "containers": [{"name": "app"}]}`, want: want{"65532", "65531", "0440", none}},
		"a group of root counts":         {spec: `{"securityContext": {"fsGroup": 0}, "containers": [{"name": "app"}]}`, want: want{"65532", "65531", "0440", none}},
		"the containers' user": {
			spec: `{"containers": [{"name": "app", "securityContext": {"runAsUser": 7}}, {"name": "b", "securityContext": {"runAsUser": 7}}]}`,
			want: want{"7", "65531", "0400", none},
		},
		"a container overrides the pod's user": {
			spec: `{"securityContext": {"runAsUser": 7}, "containers": [{"name": "app"}, {"name": "b", "securityContext": {"runAsUser": 8}}]}`,
			want: want{"65532", "65531", "0444", none},
		},
		"a container overrides with the same user": {
			spec: `{"securityContext": {"runAsUser": 7}, "containers": [{"name": "app"}, {"name": "b", "securityContext": {"runAsUser": 7}}]}`,
			want: want{"7", "65531", "0400", none},
		},
		"a container becomes root": {
			spec: `{"securityContext": {"runAsUser": 7, "fsGroup": 9}, "containers": [{"name": "app"}, {"name": "b", "securityContext": {"runAsUser": 0}}]}`,
			want: want{"65532", "65531", "0440", none},
		},
		"a root init container does not count": {
			spec: `{"securityContext": {"runAsUser": 7, "runAsGroup": 9}, "initContainers": [{"name": "i", "securityContext": {"runAsUser": 0, "runAsGroup": 0}}], "containers": [{"name": "app"}]}`,
			want: want{"7", "9", "0400", none},
		},
		"a root init container without the capability to read everything does": {
			spec: `{"securityContext": {"runAsUser": 7}, "initContainers": [{"name": "i", "securityContext": {"runAsUser": 0, "capabilities": {"drop": ["CAP_DAC_OVERRIDE"]}}}], "containers": [{"name": "app"}]}`,
			want: want{"65532", "65531", "0444", none},
		},
		"a root init container that drops all and adds it again does not": {
			spec: `{"securityContext": {"runAsUser": 7}, "initContainers": [{"name": "i", "securityContext": {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["dac_override"]}}}], "containers": [{"name": "app"}]}`,
			want: want{"7", "65531", "0400", none},
		},
		"a privileged root init container that drops all does not": {
			spec: `{"securityContext": {"runAsUser": 7}, "initContainers": [{"name": "i", "securityContext": {"runAsUser": 0, "privileged": true, "capabilities": {"drop": ["ALL"]}}}], "containers": [{"name": "app"}]}`,
			want: want{"7", "65531", "0400", none},
		},
		"a root sidecar counts": {
			spec: `{"securityContext": {"runAsUser": 7}, "initContainers": [{"name": "i", "restartPolicy": "Always", "securityContext": {"runAsUser": 0}}], "containers": [{"name": "app"}]}`,
			want: want{"65532", "65531", "0444", none},
		},
		"root init containers alone": {
			spec:        `{"initContainers": [{"name": "i", "securityContext": {"runAsUser": 0}}], "containers": [{"name": "app"}]}`,
			annotations: `, "podtoken.dev/containers": "i"`, want: want{"65532", "65531", "0444", none},
		},
		"the pod's group": {
			spec: `{"securityContext": {"runAsUser": 7, "runAsGroup": 9}, "containers": [{"name": "app"}]}`, want: want{"7", "9", "0400", none},
		},
		"the containers' group": {
			spec: `{"containers": [{"name": "app", "securityContext": {"runAsUser": 7, "runAsGroup": 9}}, {"name": "b", "securityContext": {"runAsUser": 8, "runAsGroup": 9}}]}`,
			want: want{"65532", "9", "0440", none},
		},
		"a common group of users who are not explicit": {
			spec: `{"securityContext": {"runAsGroup": 9}, "containers": [{"name": "app"}, {"name": "b", "securityContext": {"runAsUser": 8}}]}`,
			want: want{"65532", "9", "0444", none},
		},
		"a common group of root, which may go on as another": {
			spec: `{"securityContext": {"runAsGroup": 9, "runAsUser": 0}, "containers": [{"name": "app"}]}`,
			want: want{"65532", "9", "0444", none},
		},
		"different groups": {
			spec: `{"securityContext": {"runAsUser": 7}, "containers": [{"name": "app", "securityContext": {"runAsGroup": 9}}, {"name": "b", "securityContext": {"runAsGroup": 8}}]}`,
			want: want{"7", "65531", "0400", none},
		},
		"the group of root": {
			spec: `{"securityContext": {"runAsUser": 7, "runAsGroup": 0}, "containers": [{"name": "app"}]}`, want: want{"7", "65531", "0400", none},
		},
		"a group of one of two": {
			spec: `{"containers": [{"name": "app", "securityContext": {"runAsGroup": 9}}, {"name": "b"}]}`, want: want{"65532", "65531", "0444", none},
		},
		"another configured group":               {spec: `{"containers": [{"name": "app"}]}`, config: "  runAsGroup: 5\n", want: want{"65532", "5", "0444", none}},
		"the group left to the platform":         {spec: `{"containers": [{"name": "app"}]}`, config: "  runAsGroup: null\n", want: want{"65532", "null", "0444", none}},
		"the platform would choose root's group": {spec: `{"securityContext": {"runAsGroup": 0}, "containers": [{"name": "app"}]}`, config: "  runAsGroup: null\n", want: want{"65532", "65531", "0444", none}},
		"an init container counts": {
			spec: `{"initContainers": [{"name": "i", "securityContext": {"runAsUser": 8}}], "containers": [{"name": "app", "securityContext": {"runAsUser": 7}}]}`,
			want: want{"65532", "65531", "0444", none},
		},
		"a skipped container does not count": {
			spec:        `{"containers": [{"name": "app", "securityContext": {"runAsUser": 7}}, {"name": "b"}]}`,
			annotations: `, "podtoken.dev/skip-containers": "b"`, want: want{"7", "65531", "0400", none},
		},
		"a skipped container with a mount of its own counts": {
			spec: `{"containers": [{"name": "app", "securityContext": {"runAsUser": 7}},
				{"name": "b", "volumeMounts": [{"name": "podtoken", "mountPath": "/x", "readOnly": true}]}]}`,
			annotations: `, "podtoken.dev/skip-containers": "b"`, want: want{"65532", "65531", "0444", none},
		},
		"an own mode": {
			spec: `{"containers": [{"name": "app"}]}`, annotations: `, "podtoken.dev/file-mode": "0600"`, want: want{"65532", "65531", "0600", none},
		},
		"an own mode and a common user": {
			spec: `{"securityContext": {"runAsUser": 7}, "containers": [{"name": "app"}]}`, annotations: `, "podtoken.dev/file-mode": "0444"`, want: want{"7", "65531", "0444", none},
		},
		"another configured user":         {spec: `{"containers": [{"name": "app"}]}`, config: "  runAsUser: 5\n", want: want{"5", "65531", "0444", none}},
		"the user left to the platform":   {spec: `{"containers": [{"name": "app"}]}`, config: "  runAsUser: null\n", want: want{"null", "65531", "0444", none}},
		"the platform, and a common user": {spec: `{"securityContext": {"runAsUser": 7}, "containers": [{"name": "app"}]}`, config: "  runAsUser: null\n", want: want{"7", "65531", "0400", none}},
		"the platform would choose root":  {spec: `{"securityContext": {"runAsUser": 0}, "containers": [{"name": "app"}]}`, config: "  runAsUser: null\n", want: want{"65532", "65531", "0444", none}},
		"common SELinux options": {
			spec: `{"containers": [{"name": "app", "securityContext": {"seLinuxOptions": {"level": "s0"}}}, {"name": "b", "securityContext": {"seLinuxOptions": {"level": "s0"}}}]}`,
			want: want{"65532", "65531", "0444", `{"level":"s0"}`},
		},
		"different SELinux options": {
			spec: `{"containers": [{"name": "app", "securityContext": {"seLinuxOptions": {"level": "s0"}}}, {"name": "b", "securityContext": {"seLinuxOptions": {"level": "s1"}}}]}`,
			want: want{"65532", "65531", "0444", none},
		},
		"SELinux options of one of two": {
			spec: `{"containers": [{"name": "app"}, {"name": "b", "securityContext": {"seLinuxOptions": {"level": "s1"}}}]}`,
			want: want{"65532", "65531", "0444", none},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := settledPlan(t, test.spec, test.annotations, test.config)
			got := want{user(p.sidecar.SecurityContext.RunAsUser), user(p.sidecar.SecurityContext.RunAsGroup), p.tokens[0].Mode, string(mustJSON(p.sidecar.SecurityContext.SELinuxOptions))}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSidecarResources(t *testing.T) {
	const (
		guaranteed = `{"limits":{"cpu":"50m","memory":"16Mi"},"requests":{"cpu":"50m","memory":"16Mi"}}`
		defaults   = `{"limits":{"memory":"16Mi"},"requests":{"cpu":"1m","memory":"8Mi"}}`
		none       = `{}`
	)
	container := func(resources string) string { return `{"name": "app", "resources": ` + resources + `}` }
	const full = `{"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}}`
	tests := map[string]struct {
		spec        string
		annotations string
		config      string
		qos         corev1.PodQOSClass
		want        string
	}{
		"no resources":          {spec: `{"containers": [{"name": "app"}]}`, qos: "BestEffort", want: defaults},
		"no resources, None":    {spec: `{"containers": [{"name": "app"}]}`, config: "  bestEffort: None\n", qos: "BestEffort", want: none},
		"zero is as good as no": {spec: `{"containers": [` + container(`{"requests": {"cpu": "0"}, "limits": {"cpu": 0}}`) + `]}`, config: "  bestEffort: None\n", qos: "BestEffort", want: none},
		"other resources do not count": {
			spec: `{"containers": [` + container(`{"requests": {"ephemeral-storage": "1Gi"}, "limits": {"nvidia.com/gpu": "1"}}`) + `]}`, qos: "BestEffort", want: defaults,
		},
		"guaranteed":                            {spec: `{"containers": [` + container(full) + `]}`, qos: "Guaranteed", want: guaranteed},
		"guaranteed by limits alone":            {spec: `{"containers": [` + container(`{"limits": {"cpu": "1", "memory": "1Gi"}}`) + `]}`, qos: "Guaranteed", want: guaranteed},
		"guaranteed, an init container is not":  {spec: `{"initContainers": [{"name": "i"}], "containers": [` + container(full) + `]}`, qos: "Burstable", want: defaults},
		"guaranteed, an init container is, too": {spec: `{"initContainers": [` + container(full) + `], "containers": [` + container(full) + `]}`, qos: "Guaranteed", want: guaranteed},
		"limits of cpu only":                    {spec: `{"containers": [` + container(`{"limits": {"cpu": "1"}}`) + `]}`, qos: "Burstable", want: defaults},
		"requests below limits":                 {spec: `{"containers": [` + container(`{"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "2", "memory": "1"}}`) + `]}`, qos: "Burstable", want: defaults},
		"a request only":                        {spec: `{"containers": [` + container(`{"requests": {"memory": "1Mi"}}`) + `]}`, config: "  bestEffort: None\n", qos: "Burstable", want: defaults},
		"pod-level resources":                   {spec: `{"resources": {"limits": {"cpu": "1"}}, "containers": [` + container(full) + `]}`, qos: "Guaranteed", want: none},
		"empty pod-level resources":             {spec: `{"resources": {}, "containers": [` + container(full) + `]}`, qos: "Guaranteed", want: guaranteed},
		"an annotation": {
			spec: `{"containers": [` + container(full) + `]}`, annotations: `, "podtoken.dev/sidecar-resources": "{\"requests\":{\"cpu\":\"2m\"}}"`,
			qos: "Guaranteed", want: `{"requests":{"cpu":"2m"}}`,
		},
		"an empty annotation": {
			spec: `{"containers": [{"name": "app"}]}`, annotations: `, "podtoken.dev/sidecar-resources": "{}"`, qos: "BestEffort", want: none,
		},
		"other configured resources": {
			spec: `{"containers": [{"name": "app"}]}`, config: "  resources: {limits: {cpu: 1}}\n", qos: "BestEffort", want: `{"limits":{"cpu":"1"}}`,
		},
		"other configured guaranteed resources": {
			spec: `{"containers": [` + container(full) + `]}`, config: "  guaranteedResources: {cpu: 1, memory: 1Mi}\n",
			qos: "Guaranteed", want: `{"limits":{"cpu":"1","memory":"1Mi"},"requests":{"cpu":"1","memory":"1Mi"}}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := settledPlan(t, test.spec, test.annotations, test.config)
			if got := p.qos(); got != test.qos {
				t.Errorf("the pod is %s, want %s", got, test.qos)
			}
			got, err := json.Marshal(p.sidecar.Resources)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestVolumeSize(t *testing.T) {
	for tokens, want := range map[int]string{1: "1Mi", 13: "1Mi", 14: "2Mi", 29: "2Mi", 30: "3Mi", 256: "17Mi"} {
		if got := volumeSize(tokens).String(); got != want {
			t.Errorf("%d tokens: %s, want %s", tokens, got, want)
		}
	}
}

// TestSecondCallIsTolerant: a container of ours that any row of the tables can have given is kept, whatever row fits the
// pod now. The containers here were injected into one pod and are met in another.
func TestSecondCallIsTolerant(t *testing.T) {
	first := map[string]string{
		"common user":        `{"securityContext": {"runAsUser": 7}, "containers": [{"name": "app"}]}`,
		"group":              `{"securityContext": {"fsGroup": 7}, "containers": [{"name": "app"}]}`,
		"nothing":            `{"containers": [{"name": "app"}]}`,
		"guaranteed":         `{"containers": [{"name": "app", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}`,
		"one SELinux option": `{"containers": [{"name": "app", "securityContext": {"seLinuxOptions": {"level": "s0"}}}]}`,
	}
	const now = `{"securityContext": {"fsGroup": 9}, "containers": [
		{"name": "app", "securityContext": {"runAsUser": 7, "seLinuxOptions": {"level": "s0"}}},
		{"name": "later", "securityContext": {"runAsUser": 8, "seLinuxOptions": {"level": "s1"}}, "resources": {"requests": {"cpu": "1"}}}]`
	for name, spec := range first {
		t.Run(name, func(t *testing.T) {
			sidecar := settledPlan(t, spec, "", "").encoded.sidecar
			p := settledPlan(t, now+`, "initContainers": [`+string(sidecar)+`]}`, "", "")
			for _, note := range p.notes {
				if !strings.Contains(note, "would do for the containers that are there now") {
					t.Errorf("warning %q", note)
				}
			}
		})
	}
}
