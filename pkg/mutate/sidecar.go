package mutate

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

// newSidecar builds podtoken's container. It spells out what the API server would default, so that a second call finds
// the container as the first has sent it.
func (p *plan) newSidecar(id identity, resources corev1.ResourceRequirements) *corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	c := &corev1.Container{
		Name:            api.ContainerName,
		Image:           p.cfg.Sidecar.Image,
		ImagePullPolicy: p.cfg.Sidecar.ImagePullPolicy,
		Command:         []string{api.SidecarBinary, api.CommandRun},
		RestartPolicy:   &always,
		Env: []corev1.EnvVar{
			fromField(api.EnvPodName, "metadata.name"),
			fromField(api.EnvPodNamespace, "metadata.namespace"),
			fromField(api.EnvPodUID, "metadata.uid"),
			fromField(api.EnvServiceAccount, "spec.serviceAccountName"),
		},
		Resources: resources,
		VolumeMounts: []corev1.VolumeMount{
			{Name: api.VolumeTokens, MountPath: api.SidecarTokenDir},
			{Name: api.VolumeAPI, MountPath: api.APIMountPath, ReadOnly: true},
		},
		TerminationMessagePath:   corev1.TerminationMessagePathDefault,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(bool),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			ReadOnlyRootFilesystem:   yes(),
			RunAsGroup:               id.group,
			RunAsNonRoot:             yes(),
			RunAsUser:                id.user,
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			SELinuxOptions:           id.seLinux,
			AppArmorProfile:          p.appArmorProfile(),
		},
	}
	for _, token := range p.req.withModes(id.mode) {
		c.Args = append(c.Args, "--"+api.FlagToken+"="+config.FormatToken(token))
	}
	for _, name := range settingFlags {
		if value := p.req.flag(name); value != "" {
			c.Args = append(c.Args, "--"+name+"="+value)
		}
	}
	if p.req.metricsPort != 0 && !p.pod.Spec.HostNetwork { // A declared port would become a port of the node.
		c.Ports = []corev1.ContainerPort{{Name: api.ContainerName, ContainerPort: p.req.metricsPort, Protocol: corev1.ProtocolTCP}}
	}
	if p.req.readiness {
		c.ReadinessProbe = readinessProbe(p.req.metricsPort)
	}
	p.addGate(c)
	return c
}

// addGate adds what holds the other containers back until every token exists:
//
//	wait            restartPolicy of the Pod   gate
//	false           any                        none
//	true, strict    OnFailure                  a startup probe that never gives up
//	true            else                       a postStart hook
//	strict          else                       a postStart hook, and a startup probe
//
// A hook that fails has the container restarted, and tells why; a Job whose Pods have restartPolicy OnFailure counts restarts, of init containers too,
// and is failed after backoffLimit of them, before its own container ever ran (k8s.io/kubernetes/pkg/controller/job/job_controller.go,
// getFailedPods and pastBackoffLimitOnFailure). A hook without limit would hide why: as long as it runs the container is not running yet, for `kubectl logs` either.
func (p *plan) addGate(c *corev1.Container) {
	switch {
	case p.req.wait == api.WaitFalse:
	case p.pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure:
		c.StartupProbe = patientProbe()
	case p.req.wait == api.WaitStrict:
		c.Lifecycle, c.StartupProbe = hook(), startupProbe()
	default:
		c.Lifecycle = hook()
	}
}

func hook() *corev1.Lifecycle {
	return &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
		Exec: &corev1.ExecAction{Command: []string{api.SidecarBinary, api.CommandWait}},
	}}
}

// appArmorProfile keeps the application's own profile, if the Pod has one for all containers, from confining the sidecar: it may forbid to write.
// A node without AppArmor takes neither of them (k8s.io/kubernetes/pkg/security/apparmor/helpers.go, isRequired).
func (p *plan) appArmorProfile() *corev1.AppArmorProfile {
	if p.pod.Spec.SecurityContext.AppArmor != corev1.AppArmorProfileTypeLocalhost {
		return nil
	}
	return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
}

// patientProbe waits for the tokens, however long. Each attempt ends soon, and its output, which says why there is a token missing, becomes the Pod's
// event Unhealthy. When the tokens are there the attempt that runs succeeds at once.
func patientProbe() *corev1.Probe {
	return waitProbe("10s", 20, math.MaxInt32)
}

// startupProbe holds the other containers back where the hook does not: a kubelet that was started again, and runtimes that call a
// sidecar running whose hook has failed. A kubelet takes a native sidecar without startup probe for ready when it runs
// (computeInitContainerActions in pkg/kubelet/kuberuntime/kuberuntime_container.go). The hook stays, for it tells why, and no probe
// runs before it has ended. Where there is no hook any more, the kubelet restarts the sidecar after half a minute to a minute.
func startupProbe() *corev1.Probe {
	return waitProbe("1s", 5, 30)
}

// waitProbe runs the command wait with a limit of its own, below that of the kubelet, because its output is lost with the latter.
func waitProbe(limit string, timeoutSeconds, failureThreshold int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{
			Command: []string{api.SidecarBinary, api.CommandWait, "--" + api.FlagTimeout + "=" + limit},
		}},
		TimeoutSeconds: timeoutSeconds, PeriodSeconds: 1, SuccessThreshold: 1, FailureThreshold: failureThreshold,
	}
}

// readinessProbe makes the pod ready only while all its tokens are: the readiness of a native sidecar counts for the pod.
// It never restarts anything, so the timeout can be generous.
func readinessProbe(port int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: api.PathReady, Port: intstr.FromInt32(port), Scheme: corev1.URISchemeHTTP,
		}},
		TimeoutSeconds: 5, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
	}
}

func fromField(name, field string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: field}}}
}

func yes() *bool {
	value := true
	return &value
}

// newVolumes builds the volumes: that of the files, and, with a sidecar, that of its own API credential.
func (p *plan) newVolumes() []corev1.Volume {
	if p.req.projected {
		return []corev1.Volume{p.projectedVolume()}
	}
	return []corev1.Volume{
		{
			Name: api.VolumeTokens,
			VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
				Medium:    corev1.StorageMediumMemory,
				SizeLimit: volumeSize(p.req.files()),
			}},
		},
		apiVolume,
	}
}

// apiVolume is the same in every pod; it is only read.
var (
	apiVolume     = newAPIVolume()
	apiVolumeJSON = mustJSON(apiVolume)
)

func newAPIVolume() corev1.Volume {
	expiration := int64(api.APITokenExpirationSeconds)
	return projected(api.VolumeAPI,
		corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
			ExpirationSeconds: &expiration,
			Path:              corev1.ServiceAccountTokenKey,
		}},
		corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
			Items:                []corev1.KeyToPath{{Key: corev1.ServiceAccountRootCAKey, Path: corev1.ServiceAccountRootCAKey}},
		}},
		corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
			Path:     corev1.ServiceAccountNamespaceKey,
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
		}}}},
	)
}

// projectedVolume is the whole injection with DeliveryProjected: the kubelet keeps the tokens.
func (p *plan) projectedVolume() corev1.Volume {
	sources := make([]corev1.VolumeProjection, 0, len(p.req.tokens))
	for _, t := range p.req.tokens {
		sources = append(sources, corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
			Audience:          t.audiences[0],
			ExpirationSeconds: &t.expirationSeconds,
			Path:              t.path,
		}})
	}
	return projected(api.VolumeTokens, sources...)
}

func projected(name string, sources ...corev1.VolumeProjection) corev1.Volume {
	mode := corev1.ProjectedVolumeSourceDefaultMode
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{Sources: sources, DefaultMode: &mode},
	}}
}
