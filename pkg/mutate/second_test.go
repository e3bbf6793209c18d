package mutate

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podtoken/podtoken/pkg/api"
)

// TestContainerRulesAreComplete: each field of a Container and of its SecurityContext has a decision, exactly one. A new version of the API fails here, until there is one for its
// fields.
func TestContainerRulesAreComplete(t *testing.T) {
	var fields []string
	collect := func(prefix string, of reflect.Type) {
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			fields = append(fields, prefix+name)
		}
	}
	collect("", reflect.TypeFor[corev1.Container]())
	collect("securityContext.", reflect.TypeFor[corev1.SecurityContext]())
	var rules []string
	for _, rule := range containerRules {
		rules = append(rules, rule.field)
	}
	slices.Sort(fields)
	slices.Sort(rules)
	if !slices.Equal(fields, rules) {
		t.Errorf("the rules are for %q\nand the fields are %q", rules, fields)
	}
}

// secondTest is a change of the container that was injected into a Pod of one container, and what the second call has to answer.
type secondTest struct {
	change func(*corev1.Container)
	// pod is the spec without initContainers; one container without settings when empty.
	pod string
	// annotations besides that of the token "a", as the content of a JSON object.
	annotations string
	// config is that of the first call, and now that of the second; the default when empty.
	config, now string
	// denied is a part of the denial; empty when the Pod is admitted.
	denied string
	// warned is a part of the one warning; empty for none.
	warned string
}

// TestSecondCall has a row for each decision of containerRules: what hardens our container, and what others add to each container, is admitted; what another version or
// installation has set is admitted with a warning; what would make tokens wrong, lost or readable by others is rejected.
func TestSecondCall(t *testing.T) {
	security := func(change func(*corev1.SecurityContext)) func(*corev1.Container) {
		return func(c *corev1.Container) { change(c.SecurityContext) }
	}
	id := func(id int64) *int64 { return &id }
	no := func() *bool { return new(bool) }
	memory := func(limit string) func(*corev1.Container) {
		return func(c *corev1.Container) {
			c.Resources.Limits = corev1.ResourceList{"memory": resource.MustParse(limit)}
		}
	}
	mount := func(path string) func(*corev1.Container) {
		return func(c *corev1.Container) {
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "theirs", MountPath: path})
		}
	}
	args := func(old, new string) func(*corev1.Container) {
		return func(c *corev1.Container) {
			for i := range c.Args {
				c.Args[i] = strings.ReplaceAll(c.Args[i], old, new)
			}
		}
	}
	exec := func(command ...string) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: command}}}
	}
	const users = `{"securityContext": {"runAsUser": 7}, "containers": [{"name": "app"}]}`
	const onFailure = `{"restartPolicy": "OnFailure", "containers": [{"name": "app"}]}`
	nothing := func(*corev1.Container) {}
	tests := map[string]secondTest{
		"nothing":           {change: nothing},
		"image":             {change: func(c *corev1.Container) { c.Image = "mirror/sidecar:v2" }, warned: `image is "mirror/sidecar:v2", not this installation's`},
		"command":           {change: func(c *corev1.Container) { c.Command = []string{"/bin/sh"} }, denied: `command is ["/bin/sh"]`},
		"command wrapped":   {change: func(c *corev1.Container) { c.Command = append([]string{"/dumb-init"}, c.Command...) }, denied: "command is"},
		"working directory": {change: func(c *corev1.Container) { c.WorkingDir = "/tmp" }},
		"a port":            {change: func(c *corev1.Container) { c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: 15020}) }},
		"envFrom":           {change: func(c *corev1.Container) { c.EnvFrom = []corev1.EnvFromSource{{Prefix: "A_"}} }},
		"a variable": {change: func(c *corev1.Container) {
			c.Env = append(c.Env, corev1.EnvVar{Name: "KUBERNETES_SERVICE_HOST", Value: "api"})
		}},
		"a variable before ours":   {change: func(c *corev1.Container) { c.Env = append([]corev1.EnvVar{{Name: "A"}}, c.Env...) }},
		"podtoken's variable":      {change: func(c *corev1.Container) { c.Env[0] = corev1.EnvVar{Name: api.EnvPodName, Value: "other"} }, denied: "env[PODTOKEN_POD_NAME].value is \"other\""},
		"podtoken's variable more": {change: func(c *corev1.Container) { c.Env = append(c.Env, corev1.EnvVar{Name: api.EnvPodUID, Value: "other"}) }, denied: "env[PODTOKEN_POD_UID]"},
		"podtoken's variable less": {change: func(c *corev1.Container) { c.Env = c.Env[1:] }, denied: "env has no PODTOKEN_POD_NAME"},

		"requests a quarter, and a CPU limit": {change: func(c *corev1.Container) {
			c.Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("7m"), "memory": resource.MustParse("4Mi")}
			c.Resources.Limits["cpu"] = resource.MustParse("31m")
		}},
		"no resources":                 {change: func(c *corev1.Container) { c.Resources = corev1.ResourceRequirements{} }},
		"more memory":                  {change: memory("1Gi")},
		"least memory":                 {change: memory("10Mi")},
		"too little memory":            {change: memory("9Mi"), denied: `resources.limits.memory is "9Mi", and the sidecar needs 10Mi: probably changed by a webhook or policy that sets resources`},
		"no limit":                     {change: memory("0")},
		"as little as the author said": {annotations: `"podtoken.dev/sidecar-resources": "{\"limits\":{\"memory\":\"8Mi\"}}"`, change: memory("8Mi")},
		"less than the author said":    {annotations: `"podtoken.dev/sidecar-resources": "{\"limits\":{\"memory\":\"8Mi\"}}"`, change: memory("7Mi"), denied: `memory is "7Mi"`},
		"other resources":              {change: func(c *corev1.Container) { c.Resources.Limits["ephemeral-storage"] = resource.MustParse("1Gi") }},
		"a resize that restarts": {change: func(c *corev1.Container) {
			c.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "memory", RestartPolicy: corev1.RestartContainer}}
		}},
		"less memory is configured now": {change: nothing, now: "  resources: {limits: {memory: 12Mi}}\n"},
		"more memory is configured now": {change: nothing, now: "  resources: {limits: {memory: 24Mi}, requests: {memory: 12Mi}}\n"},
		"restartPolicy":                 {change: func(c *corev1.Container) { c.RestartPolicy = nil }, denied: "restartPolicy is absent"},
		"rules of restarts": {change: func(c *corev1.Container) {
			c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart}}
		}, denied: "restartPolicyRules"},
		"a mount":                           {change: mount("/etc/ssl/certs")},
		"a mount beside ours":               {change: mount("/var/run/secrets/eks.amazonaws.com/serviceaccount")},
		"a mount at the tokens":             {change: mount("/var/run/secrets/podtoken.dev"), denied: "volumeMounts[/var/run/secrets/podtoken.dev]"},
		"a mount below the tokens":          {change: mount("/var/run/secrets/podtoken.dev/x"), denied: `below "/var/run/secrets/podtoken.dev"`},
		"a mount above the tokens":          {change: mount("/var/run/"), denied: "above"},
		"a mount over the credential":       {change: mount("/var/run/secrets/kubernetes.io/serviceaccount/../serviceaccount"), denied: "volumeMounts[/var/run/secrets/kubernetes.io/serviceaccount]"},
		"a mount above the credential":      {change: mount("/var/run/secrets/kubernetes.io"), denied: `below "/var/run/secrets/kubernetes.io/serviceaccount"`},
		"a mount over the program":          {change: mount("/podtoken-sidecar"), denied: `"/podtoken-sidecar"`},
		"a relative mount over the program": {change: mount("podtoken-sidecar"), denied: `"/podtoken-sidecar"`},
		"a relative mount over the tokens":  {change: mount("var/run/secrets/podtoken.dev"), denied: "volumeMounts[/var/run/secrets/podtoken.dev]"},
		"a relative mount above":            {change: mount("../var//run/."), denied: "above"},
		"a mount over what is here":         {change: mount("."), denied: "above"},
		"our mount, written in another way": {change: func(c *corev1.Container) { c.VolumeMounts[0].MountPath += "/" }},
		"a mount over everything":           {change: mount("/"), denied: "volumeMounts has \"/\""},
		"our mount is gone":                 {change: func(c *corev1.Container) { c.VolumeMounts = c.VolumeMounts[1:] }, denied: "volumeMounts has no /var/run/secrets/podtoken.dev"},
		"our mount is read-only":            {change: func(c *corev1.Container) { c.VolumeMounts[0].ReadOnly = true }, denied: "readOnly is true"},
		"a device":                          {change: func(c *corev1.Container) { c.VolumeDevices = []corev1.VolumeDevice{{Name: "d", DevicePath: "/dev/x"}} }},
		"a device in the place of the program": {change: func(c *corev1.Container) {
			c.VolumeDevices = []corev1.VolumeDevice{{Name: "d", DevicePath: "/podtoken-sidecar"}}
		}, denied: "volumeDevices"},
		"a liveness probe":  {change: func(c *corev1.Container) { c.LivenessProbe = exec("/x") }, warned: "livenessProbe is"},
		"a readiness probe": {change: func(c *corev1.Container) { c.ReadinessProbe = exec("/x") }, warned: "readinessProbe is"},
		"a readiness probe of a mesh": {annotations: `"podtoken.dev/readiness": "true", "podtoken.dev/metrics-port": "9102"`, change: func(c *corev1.Container) {
			c.ReadinessProbe.HTTPGet = &corev1.HTTPGetAction{Path: "/app-health/podtoken/readyz", Port: intstr.FromInt32(15020)}
		}},
		"our readiness probe is gone": {annotations: `"podtoken.dev/readiness": "true", "podtoken.dev/metrics-port": "9102"`, change: func(c *corev1.Container) { c.ReadinessProbe = nil }, warned: "readinessProbe is absent"},
		"a startup probe":             {change: func(c *corev1.Container) { c.StartupProbe = exec("/x") }, warned: "startupProbe is"},
		"the hook is gone":            {change: func(c *corev1.Container) { c.Lifecycle = nil }, denied: "lifecycle.postStart and startupProbe do not run"},
		"a hook that does not wait": {change: func(c *corev1.Container) {
			c.Lifecycle.PostStart.Exec.Command = []string{"/podtoken-sidecar", "wait", "--help"}
		}, denied: "lifecycle.postStart is"},
		"a hook that does not wait long": {change: func(c *corev1.Container) {
			c.Lifecycle.PostStart.Exec.Command = []string{"/podtoken-sidecar", "wait", "--timeout=1ms"}
		}, denied: "lifecycle.postStart is"},
		"a probe that does not wait": {pod: onFailure, change: func(c *corev1.Container) {
			c.StartupProbe.Exec.Command = []string{"/podtoken-sidecar", "wait", "--help"}
		}, denied: "startupProbe do not run"},
		"another hook": {change: func(c *corev1.Container) { c.Lifecycle.PostStart.Exec.Command = []string{"/x"} }, denied: "lifecycle.postStart is"},
		"a hook where none waits": {annotations: `"podtoken.dev/wait": "false"`, change: func(c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: exec("/x").Exec}}
		}, denied: "lifecycle.postStart is"},
		"another end": {change: func(c *corev1.Container) {
			c.Lifecycle.PreStop = &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 5}}
		}},
		"waits, and wait is false": {annotations: `"podtoken.dev/wait": "false"`, change: func(c *corev1.Container) { c.StartupProbe = patientProbe() }, warned: `wait for the tokens by a startup probe, and podtoken.dev/wait is "false"`},
		"a hook for a Job that counts restarts": {pod: onFailure, change: func(c *corev1.Container) {
			c.Lifecycle, c.StartupProbe = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: exec("/podtoken-sidecar", "wait").Exec}}, nil
		}, warned: "the other containers wait for the tokens by a postStart hook, not by a startup probe"},
		"the probe for a Job is gone":  {pod: onFailure, change: func(c *corev1.Container) { c.StartupProbe = nil }, denied: "startupProbe do not run"},
		"the probe for a Job gives up": {pod: onFailure, change: func(c *corev1.Container) { c.StartupProbe.FailureThreshold = 3 }, warned: "startupProbe.failureThreshold is 3, not 2147483647"},
		"termination message": {change: func(c *corev1.Container) {
			c.TerminationMessagePath, c.TerminationMessagePolicy = "/dev/other", "FallbackToLogsOnError"
		}},
		"a relative termination message":            {change: func(c *corev1.Container) { c.TerminationMessagePath = "podtoken-sidecar" }, denied: "terminationMessagePath is"},
		"termination message in the place of files": {change: func(c *corev1.Container) { c.TerminationMessagePath = "/var/run/secrets/podtoken.dev/log" }, denied: "terminationMessagePath is"},
		"pull policy":    {change: func(c *corev1.Container) { c.ImagePullPolicy = "Always" }},
		"standard input": {change: func(c *corev1.Container) { c.Stdin, c.StdinOnce, c.TTY = true, true, true }},

		"no security context":           {change: func(c *corev1.Container) { c.SecurityContext = nil }, denied: "securityContext is absent"},
		"capabilities are added":        {change: security(func(s *corev1.SecurityContext) { s.Capabilities.Add = []corev1.Capability{"NET_ADMIN"} }), denied: `capabilities.add is ["NET_ADMIN"]`},
		"more capabilities are dropped": {change: security(func(s *corev1.SecurityContext) { s.Capabilities.Drop = []corev1.Capability{"NET_RAW", "ALL"} })},
		"all in lower case":             {change: security(func(s *corev1.SecurityContext) { s.Capabilities.Drop = []corev1.Capability{"all"} })},
		"fewer capabilities":            {change: security(func(s *corev1.SecurityContext) { s.Capabilities.Drop = []corev1.Capability{"NET_RAW"} }), denied: "capabilities.drop"},
		"capabilities are gone":         {change: security(func(s *corev1.SecurityContext) { s.Capabilities = nil }), denied: "capabilities.drop"},
		"privileged":                    {change: security(func(s *corev1.SecurityContext) { s.Privileged = yes() }), denied: "securityContext.privileged is true, not false"},
		"not privileged":                {change: security(func(s *corev1.SecurityContext) { s.Privileged = no() })},
		"SELinux options":               {change: security(func(s *corev1.SecurityContext) { s.SELinuxOptions = &corev1.SELinuxOptions{Level: "s0:c1"} }), warned: "seLinuxOptions is"},
		"SELinux options are gone": {
			pod:    `{"containers": [{"name": "app", "securityContext": {"seLinuxOptions": {"level": "s0:c1"}}}]}`,
			change: security(func(s *corev1.SecurityContext) { s.SELinuxOptions = nil }), warned: "seLinuxOptions is absent",
		},
		"SELinux options of all": {
			pod:    `{"containers": [{"name": "app", "securityContext": {"seLinuxOptions": {"level": "s0:c1"}}}, {"name": "b"}]}`,
			change: security(func(s *corev1.SecurityContext) { s.SELinuxOptions = &corev1.SELinuxOptions{Level: "s0:c1"} }),
		},
		"Windows options":                    {change: security(func(s *corev1.SecurityContext) { s.WindowsOptions = &corev1.WindowsSecurityContextOptions{} })},
		"root":                               {change: security(func(s *corev1.SecurityContext) { s.RunAsUser = id(0) }), denied: "runAsUser is 0"},
		"the Pod's root":                     {pod: `{"securityContext": {"runAsUser": 0}, "containers": [{"name": "app"}]}`, change: security(func(s *corev1.SecurityContext) { s.RunAsUser = nil }), denied: "runAsUser is 0"},
		"another user":                       {change: security(func(s *corev1.SecurityContext) { s.RunAsUser = id(10001) }), warned: "runAsUser is 10001, not 65532"},
		"another user is configured now":     {change: nothing, now: "  runAsUser: 10001\n", warned: "runAsUser is 65532, not 10001"},
		"the platform's user":                {config: "  runAsUser: null\n", now: "  runAsUser: null\n", change: security(func(s *corev1.SecurityContext) { s.RunAsUser = id(1000680000) })},
		"no user":                            {change: security(func(s *corev1.SecurityContext) { s.RunAsUser = nil }), warned: "runAsUser is absent, not 65532"},
		"no user, and root is not ruled out": {change: security(func(s *corev1.SecurityContext) { s.RunAsUser, s.RunAsNonRoot = nil, no() }), denied: "runAsNonRoot is false, not true"},
		"a user who keeps the files from the app": {pod: users, change: security(func(s *corev1.SecurityContext) { s.RunAsUser = id(65534) }), denied: "securityContext has runAsUser 65534 and runAsGroup 65531, and files of mode 0400 that no container can read: \"app (user 7, group absent)\": probably changed by a policy that sets the users"},
		"the installation's user for the app's":   {pod: users, change: security(func(s *corev1.SecurityContext) { s.RunAsUser = id(65532) }), denied: "has runAsUser 65532 and runAsGroup 65531, and files of mode 0400 that no container can read"},
		"a user whose signals do not arrive":      {pod: `{"securityContext": {"runAsUser": 7}, "shareProcessNamespace": true, "containers": [{"name": "app"}]}`, annotations: `"podtoken.dev/notify-signal": "SIGHUP:nginx", "podtoken.dev/file-mode": "0444"`, change: security(func(s *corev1.SecurityContext) { s.RunAsUser = id(65532) }), denied: "notify-signal"},
		"a group that keeps the files from the apps": {
			pod:    `{"securityContext": {"runAsGroup": 9}, "containers": [{"name": "app", "securityContext": {"runAsUser": 7}}, {"name": "b", "securityContext": {"runAsUser": 8}}]}`,
			change: security(func(s *corev1.SecurityContext) { s.RunAsGroup = id(65534) }), denied: "runAsGroup 65534, and files of mode 0440 that no container can read",
		},
		"a group":                                {change: security(func(s *corev1.SecurityContext) { s.RunAsGroup = id(65534) })},
		"no group, as before there was one":      {change: security(func(s *corev1.SecurityContext) { s.RunAsGroup = nil })},
		"the group of root":                      {change: security(func(s *corev1.SecurityContext) { s.RunAsGroup = id(0) }), warned: "runAsGroup is 0"},
		"another group is configured now":        {change: nothing, now: "  runAsGroup: 10001\n"},
		"root is not ruled out for a known user": {change: security(func(s *corev1.SecurityContext) { s.RunAsNonRoot = nil })},
		"a writable root":                        {change: security(func(s *corev1.SecurityContext) { s.ReadOnlyRootFilesystem = no() }), denied: "readOnlyRootFilesystem is false, not true"},
		"a writable root by default":             {change: security(func(s *corev1.SecurityContext) { s.ReadOnlyRootFilesystem = nil }), denied: "readOnlyRootFilesystem is absent, not true"},
		"escalation":                             {change: security(func(s *corev1.SecurityContext) { s.AllowPrivilegeEscalation = yes() }), denied: "allowPrivilegeEscalation is true, not false"},
		"escalation by default":                  {change: security(func(s *corev1.SecurityContext) { s.AllowPrivilegeEscalation = nil }), denied: "allowPrivilegeEscalation is absent, not false"},
		"proc": {change: security(func(s *corev1.SecurityContext) {
			s.ProcMount = new(corev1.ProcMountType)
			*s.ProcMount = corev1.UnmaskedProcMount
		}), denied: "procMount is \"Unmasked\""},
		"proc by default": {change: security(func(s *corev1.SecurityContext) {
			s.ProcMount = new(corev1.ProcMountType)
			*s.ProcMount = corev1.DefaultProcMount
		})},
		"seccomp of the node":                    {change: security(func(s *corev1.SecurityContext) { s.SeccompProfile = &corev1.SeccompProfile{Type: "Localhost"} })},
		"no seccomp":                             {change: security(func(s *corev1.SecurityContext) { s.SeccompProfile = &corev1.SeccompProfile{Type: "Unconfined"} }), denied: "seccompProfile is"},
		"no seccomp by default":                  {change: security(func(s *corev1.SecurityContext) { s.SeccompProfile = nil }), denied: "seccompProfile is absent"},
		"AppArmor":                               {change: security(func(s *corev1.SecurityContext) { s.AppArmorProfile = &corev1.AppArmorProfile{Type: "Localhost"} })},
		"AppArmor is gone":                       {pod: `{"securityContext": {"appArmorProfile": {"type": "Localhost"}}, "containers": [{"name": "app"}]}`, change: security(func(s *corev1.SecurityContext) { s.AppArmorProfile = nil }), warned: "appArmorProfile is absent"},
		"no AppArmor":                            {change: security(func(s *corev1.SecurityContext) { s.AppArmorProfile = &corev1.AppArmorProfile{Type: "Unconfined"} }), denied: "appArmorProfile is"},
		"arguments written in another way":       {change: args(`"audiences":["a"]`, `"audiences" : [ "\u0061" ]`), denied: "is not written as podtoken writes it"},
		"an argument in two cases":               {change: args(`"audiences":["a"]`, `"audiences":["a"],"Audiences":["b"]`), denied: "args: "},
		"a variable in an argument":              {annotations: `"podtoken.dev/audience.b": "x-$(A)"`, change: args(`\u0024(A)`, `$(A)`), denied: "is not one of podtoken's"},
		"an argument without dashes":             {change: func(c *corev1.Container) { c.Args[0] = strings.TrimPrefix(c.Args[0], "--") }, denied: "is not one of podtoken's"},
		"an argument with one dash":              {change: func(c *corev1.Container) { c.Args[0] = strings.TrimPrefix(c.Args[0], "-") }, denied: "is not one of podtoken's"},
		"a thousand arguments":                   {change: func(c *corev1.Container) { c.Args = slices.Repeat(c.Args, 1000) }, denied: "args: there are 1000, at most 4 are podtoken's"},
		"an argument of a megabyte":              {change: func(c *corev1.Container) { c.Args[0] += strings.Repeat(" ", 1<<20) }, denied: "bytes, at most"},
		"a port written in another way":          {annotations: `"podtoken.dev/metrics-port": "9102"`, change: args("=9102", "=09102"), denied: `--metrics-port="09102" is no port`},
		"another audience":                       {change: args(`"audiences":["a"]`, `"audiences":["b"]`), denied: `audiences of the token "a" is ["b"], not ["a"]`},
		"one more audience":                      {change: args(`"audiences":["a"]`, `"audiences":["a","b"]`), denied: `is ["a","b"], not ["a"]`},
		"another name":                           {change: args(`"name":"a"`, `"name":"b"`), denied: `args have no token "a", args have the token "b", which no annotation names`},
		"another path":                           {change: args(`"path":"a"`, `"path":"x"`), denied: `paths of the token "a" is ["x"], not ["a"]`},
		"another lifetime":                       {change: args(`"expirationSeconds":3600`, `"expirationSeconds":7200`), warned: `expirationSeconds of the token "a" is 7200, not 3600`},
		"a lifetime that is too long":            {change: args(`"expirationSeconds":3600`, `"expirationSeconds":172800`), denied: "is 172800, and this installation allows at most 86400 (tokens.maxExpiration)"},
		"another moment":                         {change: args(`"refreshAtPercent":80`, `"refreshAtPercent":50`), warned: "refreshAtPercent"},
		"a mode of another row":                  {change: args(`"mode":"0444"`, `"mode":"0440"`), warned: "token files of mode 0440 may be unreadable"},
		"a mode that lets more read than needed": {pod: users, change: args(`"mode":"0400"`, `"mode":"0444"`), warned: `mode of the token "a" is "0444", and "0400" would do`},
		"a mode that lets others write":          {change: args(`"mode":"0444"`, `"mode":"0666"`), denied: "mode"},
		"a mode that lets others execute":        {change: args(`"mode":"0444"`, `"mode":"0555"`), denied: `mode of the token "a" is "0555", which lets others`},
		"a mode that lets fewer read than asked": {pod: users, annotations: `"podtoken.dev/file-mode": "0440"`, change: args(`"mode":"0440"`, `"mode":"0400"`), warned: `is "0400", not "0440"`},
		"a mode that lets more read than asked":  {annotations: `"podtoken.dev/file-mode": "0440"`, change: args(`"mode":"0440"`, `"mode":"0444"`), denied: `is "0444", which lets others read what "0440" does not`},
		"what an unknown field of a token says":  {change: args(`"name":"a"`, `"name":"a","bundle":true`), denied: "args: "},
		"a token more": {change: func(c *corev1.Container) {
			c.Args = append(c.Args, strings.NewReplacer(`"a"`, `"b"`).Replace(c.Args[0]))
		}, denied: `args have the token "b"`},
		"a token less":                  {change: func(c *corev1.Container) { c.Args = nil }, denied: "args: no token to keep"},
		"another directory":             {change: func(c *corev1.Container) { c.Args = append(c.Args, "--dir=/tmp") }, denied: `args: "--dir=/tmp" is not one of podtoken's`},
		"an argument":                   {change: func(c *corev1.Container) { c.Args = append(c.Args, "x") }, denied: `args: "x" is not one`},
		"another URL is notified":       {annotations: `"podtoken.dev/notify": "http://localhost:80/"`, change: args("localhost:80", "localhost:81"), warned: "args: --notify is"},
		"a URL outside is notified":     {annotations: `"podtoken.dev/notify": "http://localhost:80/"`, change: args("localhost:80", "example.com:80"), denied: "only the pod's own loopback"},
		"another port":                  {annotations: `"podtoken.dev/metrics-port": "9102"`, change: args("9102", "9103"), warned: "--metrics-port"},
		"a port that is none":           {annotations: `"podtoken.dev/metrics-port": "9102"`, change: args("9102", "x"), denied: `--metrics-port="x" is no port`},
		"another format":                {annotations: `"podtoken.dev/format.a": "json"`, change: args(`"text":`, `"text":"x"},{"text":`), warned: "files of the token"},
		"a port that was not requested": {change: func(c *corev1.Container) { c.Args = append(c.Args, "--metrics-port=9102") }, warned: `--metrics-port is "9102", not ""`},
		"a flag twice":                  {annotations: `"podtoken.dev/metrics-port": "9102"`, change: func(c *corev1.Container) { c.Args = append(c.Args, "--metrics-port=9102") }, denied: "--metrics-port is there twice"},
		"everything that hardens": {change: func(c *corev1.Container) {
			c.SecurityContext.RunAsGroup, c.SecurityContext.AppArmorProfile = id(65534), &corev1.AppArmorProfile{Type: "RuntimeDefault"}
			c.SecurityContext.SeccompProfile.Type, c.WorkingDir = "Localhost", "/tmp"
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test.run(t) })
	}
}

func (test secondTest) run(t *testing.T) {
	t.Helper()
	spec := test.pod
	if spec == "" {
		spec = `{"containers": [{"name": "app"}]}`
	}
	annotations := `"podtoken.dev/audience.a": "a"`
	if test.annotations != "" {
		annotations += ", " + test.annotations
	}
	data := []byte(`{"metadata": {"annotations": {` + annotations + `}}, "spec": ` + spec + `}`)
	in := Input{Pod: decodePod(t, data), Operation: "CREATE", Config: parsedConfig(t, defaultConfig+test.config)}
	first := Mutate(in)
	if first.Outcome != api.OutcomeInjected {
		t.Fatal(first.Message)
	}
	var pod struct {
		Metadata json.RawMessage            `json:"metadata"`
		Spec     map[string]json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(applyJSON(t, data, first.Patch), &pod); err != nil {
		t.Fatal(err)
	}
	var own []corev1.Container
	if err := json.Unmarshal(pod.Spec["initContainers"], &own); err != nil {
		t.Fatal(err)
	}
	test.change(&own[0])
	pod.Spec["initContainers"] = mustJSON(own)
	in.Pod = decodePod(t, mustJSON(pod))
	in.Config = parsedConfig(t, defaultConfig+test.now)
	got := Mutate(in)
	warnings := slices.DeleteFunc(slices.Clone(got.Warnings), func(w string) bool { return slices.Contains(first.Warnings, w) })
	switch {
	case test.denied != "":
		if got.Outcome != api.OutcomeDenied || !strings.Contains(got.Message, test.denied) || strings.Contains(got.Message, "remove it") || !strings.Contains(got.Message, "probably changed by") {
			t.Errorf("%s: %s, want a denial with %q", got.Outcome, got.Message, test.denied)
		}
	case got.Outcome != api.OutcomeUnchanged:
		t.Errorf("%s: %s, patch %s", got.Outcome, got.Message, got.Patch)
	case test.warned == "" && len(warnings) > 0, test.warned != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], test.warned)):
		t.Errorf("warnings %q, want %q", warnings, test.warned)
	}
}
