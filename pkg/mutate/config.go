package mutate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podtoken/podtoken/pkg/api"
)

// Type and version of the configuration file.
const (
	ConfigAPIVersion = "podtoken.dev/v1alpha1"
	ConfigKind       = "WebhookConfiguration"
)

// Values of SidecarConfig.BestEffort.
const (
	// BestEffortDefaults gives the sidecar of a BestEffort pod the default resources; the pod becomes Burstable.
	BestEffortDefaults = "Defaults"
	// BestEffortNone gives it none; the pod stays BestEffort.
	BestEffortNone = "None"
)

// Config is the installation's configuration. It comes out of ParseConfig and is not changed afterwards.
type Config struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Sidecar    SidecarConfig `json:"sidecar"`
	Tokens     TokensConfig  `json:"tokens"`
	// Profiles are sets of settings that pods name: by name, then by the annotation's key without prefix.
	Profiles map[string]map[string]string `json:"profiles"`
}

// SidecarConfig is about the injected container.
type SidecarConfig struct {
	// Image of the sidecar; required.
	Image string `json:"image"`
	// ImagePullPolicy is Always, IfNotPresent (the default) or Never.
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy"`
	// RunAsUser is the sidecar's user when the pod's containers have no common one; 65532 by default. An explicit null
	// leaves it to the platform (OpenShift assigns a user out of the namespace's range).
	RunAsUser *int64 `json:"runAsUser"`
	// RunAsGroup is the sidecar's group when the pod's containers have no common one; 65531 by default. An explicit null
	// leaves it to the platform and the image.
	RunAsGroup *int64 `json:"runAsGroup"`
	// Resources of the sidecar in ordinary pods. Given, they replace the defaults (1m/8Mi, limit 16Mi) as a whole.
	Resources *corev1.ResourceRequirements `json:"resources"`
	// GuaranteedResources are both requests and limits in Guaranteed pods; cpu 50m and memory 16Mi by default.
	GuaranteedResources corev1.ResourceList `json:"guaranteedResources"`
	// BestEffort tells what the sidecar of a BestEffort pod gets: BestEffortDefaults (the default) or BestEffortNone.
	BestEffort string `json:"bestEffort"`
}

// TokensConfig limits what pods may ask for.
type TokensConfig struct {
	// MaxExpiration is the longest lifetime that a pod may ask for, a Go duration of whole seconds; 24h by default.
	MaxExpiration metav1.Duration `json:"maxExpiration"`
	// MaxPerPod is the largest number of tokens of one pod; 16 by default.
	MaxPerPod int `json:"maxPerPod"`
}

// ParseConfig reads the configuration file. Unknown and duplicate fields are errors; what is left out has the
// documented default. All that is wrong with the values is reported at once.
func ParseConfig(data []byte) (*Config, error) {
	user, group := int64(fallbackUser), int64(fallbackGroup)
	cfg := &Config{Sidecar: SidecarConfig{RunAsUser: &user, RunAsGroup: &group}}
	if err := yaml.UnmarshalStrict(data, cfg); err != nil {
		return nil, fmt.Errorf("parsing configuration: %w", err)
	}
	cfg.setDefaults()
	if problems := cfg.validate(); len(problems) > 0 {
		return nil, fmt.Errorf("checking configuration: %s", strings.Join(problems, "; "))
	}
	return cfg, nil
}

func (c *Config) setDefaults() {
	s, t := &c.Sidecar, &c.Tokens
	if s.ImagePullPolicy == "" {
		s.ImagePullPolicy = corev1.PullIfNotPresent
	}
	if s.Resources == nil {
		s.Resources = &corev1.ResourceRequirements{
			Requests: corev1.ResourceList{
				corev1.ResourceCPU:    resource.MustParse("1m"),
				corev1.ResourceMemory: resource.MustParse("8Mi"),
			},
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")},
		}
	}
	if s.GuaranteedResources == nil {
		s.GuaranteedResources = corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("50m"),
			corev1.ResourceMemory: resource.MustParse("16Mi"),
		}
	}
	if s.BestEffort == "" {
		s.BestEffort = BestEffortDefaults
	}
	if t.MaxExpiration.Duration == 0 {
		t.MaxExpiration.Duration = 24 * time.Hour
	}
	if t.MaxPerPod == 0 {
		t.MaxPerPod = 16
	}
	if len(c.Profiles) == 0 {
		c.Profiles = nil
	}
}

// validate returns one text per problem: field, value, what is allowed.
func (c *Config) validate() []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	s, t := &c.Sidecar, &c.Tokens

	if c.APIVersion != ConfigAPIVersion {
		add("apiVersion: %q is not known, use %q", c.APIVersion, ConfigAPIVersion)
	}
	if c.Kind != ConfigKind {
		add("kind: %q is not known, use %q", c.Kind, ConfigKind)
	}
	if s.Image == "" || strings.ContainsFunc(s.Image, func(r rune) bool { return r <= ' ' || r > '~' }) {
		add("sidecar.image: %q is not the name of an image", s.Image)
	}
	if policies := []corev1.PullPolicy{corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever}; !slices.Contains(policies, s.ImagePullPolicy) {
		add("sidecar.imagePullPolicy: %q is not one of Always, IfNotPresent, Never", s.ImagePullPolicy)
	}
	if s.RunAsUser != nil && (*s.RunAsUser < 1 || *s.RunAsUser > maxUserID) {
		add("sidecar.runAsUser: %d is not allowed, use 1 to %d, or null to leave it to the platform; the sidecar never runs as root", *s.RunAsUser, maxUserID)
	}
	if s.RunAsGroup != nil && (*s.RunAsGroup < 1 || *s.RunAsGroup > maxUserID) {
		add("sidecar.runAsGroup: %d is not allowed, use 1 to %d, or null to leave it to the platform; the sidecar never has the group of root", *s.RunAsGroup, maxUserID)
	}
	for _, text := range resourceProblems(*s.Resources) {
		add("sidecar.resources: %s", text)
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q := s.GuaranteedResources[name]; q.Sign() <= 0 {
			add("sidecar.guaranteedResources: %s is missing or not positive; a Guaranteed pod needs cpu and memory of every container", name)
		}
	}
	for _, text := range resourceProblems(corev1.ResourceRequirements{Limits: s.GuaranteedResources}) {
		add("sidecar.guaranteedResources: %s", text)
	}
	if s.BestEffort != BestEffortDefaults && s.BestEffort != BestEffortNone {
		add("sidecar.bestEffort: %q is not one of Defaults, None", s.BestEffort)
	}
	if d := t.MaxExpiration.Duration; d < api.MinExpirationSeconds*time.Second || d > api.MaxExpirationSeconds*time.Second || d%time.Second != 0 {
		add("tokens.maxExpiration: %s is not allowed, use whole seconds, %s to %s", d, shortDuration(api.MinExpirationSeconds), shortDuration(api.MaxExpirationSeconds))
	}
	if t.MaxPerPod < 1 || t.MaxPerPod > maxTokensPerPod {
		add("tokens.maxPerPod: %d is not allowed, use 1 to %d", t.MaxPerPod, maxTokensPerPod)
	}
	if len(problems) == 0 { // They are held against the limits.
		problems = c.profileProblems()
	}
	return problems
}
