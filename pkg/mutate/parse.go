package mutate

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// request is what a pod's annotations ask for. Every value in it was checked.
type request struct {
	// tokens are sorted by name.
	tokens []tokenRequest

	mountPath                  string
	containers, skipContainers []string
	projected                  bool

	refreshAtPercent int
	wait             string // api.WaitTrue, WaitFalse or WaitStrict
	notify           string
	notifySignal     string
	metricsPort      int32
	readiness        bool
	resources        *corev1.ResourceRequirements

	// warnings are about annotations that have no effect.
	warnings []string
}

type tokenRequest struct {
	name              string
	audiences         []string
	expirationSeconds int64
	// path is relative to the mount directory, and file the absolute one.
	path, file string
	// env is empty for no variable.
	env string
	// mode is empty when the pod's users decide it (see identityOf).
	mode string

	// steps make the file of another format than the raw one; the token itself is in a hidden file then.
	steps []api.Step
	// extra are files that a preset adds, and variables what it sets besides env.
	extra     []extraFile
	variables []variable
	// rivals are variables of the user's that the SDK prefers to the token.
	rivals []string
	// kept is set when the SDK goes on with a token for a while after it has read it.
	kept time.Duration
	// ownKubeconfig is set for a kubeconfig of the pod's own cluster.
	ownKubeconfig bool
}

// extraFile is a file beside that of the token, as path and file of a tokenRequest.
type extraFile struct {
	path  string
	steps []api.Step
}

// variable is one that a preset sets in the containers.
type variable struct {
	name, value string
	// unless is another variable of the user's, beside which this one is not wanted.
	unless string
	// quiet is set for defaults, which the user may replace without a warning.
	quiet bool
}

// problem is one reason for a denial. The text names the annotation or field, its value, what is allowed, what to do.
type problem struct {
	reason api.Reason
	text   string
	// partial is set when another annotation is missing, which a profile may leave to the pod.
	partial bool
}

// limitError is the error of a value that is well-formed and more than the installation allows.
type limitError string

func (e limitError) Error() string { return string(e) }

// sidecarSettings have no effect with DeliveryProjected. Those of bothScopes count with a token's name, too.
var sidecarSettings = []string{
	api.AnnotationFileMode, api.AnnotationRefreshAt, api.AnnotationWait, api.AnnotationNotify, api.AnnotationNotifySignal,
	api.AnnotationMetricsPort, api.AnnotationReadiness, api.AnnotationSidecarResources,
}

// parser collects what is wrong while it reads the annotations.
type parser struct {
	annotations map[string]string
	// profile has the profile of each annotation that the pod itself does not have.
	profile map[string]string
	limits  *TokensConfig
	// formatted is set when a token has a setting of a format or preset, which most pods do not.
	formatted bool
	problems  []problem
}

// parse reads the annotations of a pod that has at least one of podtoken's. It reports all problems, in a fixed order: the
// profiles, the switch, the keys (sorted), the settings of the pod, the tokens (by name). With problems the request is not complete.
func parse(annotations map[string]string, cfg *Config) (*request, []problem) {
	p := &parser{annotations: annotations, limits: &cfg.Tokens}
	p.addProfiles(cfg.Profiles)
	if value, ok := annotations[api.AnnotationInject]; ok && value != "true" {
		p.fail(api.AnnotationInject, value, errors.New(`is not allowed: use "true" or "false"`))
	}
	names := p.keys()
	req := &request{
		mountPath:        setting(p, api.AnnotationMountPath, api.DefaultMountPath, parseMountPath),
		containers:       setting(p, api.AnnotationContainers, nil, parseNames),
		skipContainers:   setting(p, api.AnnotationSkipContainers, nil, parseNames),
		refreshAtPercent: setting(p, api.AnnotationRefreshAt, api.DefaultRefreshAtPercent, parseRefreshAt),
		wait:             setting(p, api.AnnotationWait, api.WaitTrue, parseWait),
		notify:           setting(p, api.AnnotationNotify, "", parseNotify),
		notifySignal:     setting(p, api.AnnotationNotifySignal, "", parseNotifySignal),
		metricsPort:      setting(p, api.AnnotationMetricsPort, 0, parseMetricsPort),
		readiness:        setting(p, api.AnnotationReadiness, false, parseBool),
		projected:        setting(p, api.AnnotationDelivery, false, parseDelivery),
		resources:        setting(p, api.AnnotationSidecarResources, nil, parseResources),
	}
	p.tokens(req, names)
	if req.projected {
		p.checkProjected(req)
	} else {
		p.checkPort(req)
	}
	return req, p.problems
}

func (p *parser) add(reason api.Reason, format string, args ...any) {
	p.problems = append(p.problems, problem{reason: reason, text: fmt.Sprintf(format, args...)})
}

// need is a problem that another annotation would solve.
func (p *parser) need(format string, args ...any) {
	p.problems = append(p.problems, problem{api.ReasonInvalidValue, fmt.Sprintf(format, args...), true})
}

// label is a key for a message, with the profile that has it.
func (p *parser) label(key string) string {
	if name, ok := p.profile[key]; ok {
		return fmt.Sprintf("%s (profile %q)", plain(key), name)
	}
	return plain(key)
}

// fail is about the value of one annotation.
func (p *parser) fail(key, value string, err error) {
	reason := api.ReasonInvalidValue
	if errors.As(err, new(limitError)) {
		reason = api.ReasonLimitExceeded
	}
	shown := quote(value)
	if strings.HasPrefix(key, api.AnnotationTemplateOf) || strings.HasPrefix(key, api.AnnotationKubeconfigCAOf) {
		shown = "the value" // it may contain a secret
	}
	p.add(reason, "%s: %s %s", p.label(key), shown, err)
}

// setting returns the parsed value of the annotation, or the fallback when there is none or it is wrong.
func setting[T any](p *parser, key string, fallback T, parse func(string) (T, error)) T {
	value, ok := p.annotations[key]
	if !ok {
		return fallback
	}
	parsed, err := parse(value)
	if err != nil {
		p.fail(key, value, err)
		return fallback
	}
	return parsed
}

// tokens reads the settings of every token.
func (p *parser) tokens(req *request, names []string) {
	if len(names) > p.limits.MaxPerPod {
		p.add(api.ReasonLimitExceeded, "the pod asks for %d tokens: this installation allows %d in a pod (tokens.maxPerPod), "+
			"put audiences that go together into one token", len(names), p.limits.MaxPerPod)
		return
	}
	parseExpiration := func(value string) (int64, error) { return parseExpiration(value, p.limits.MaxExpiration.Duration) }
	expiration := setting(p, api.AnnotationExpiration, min(api.DefaultExpirationSeconds, int64(p.limits.MaxExpiration.Seconds())), parseExpiration)
	mode := setting(p, api.AnnotationFileMode, "", parseFileMode)
	for _, name := range names {
		relative := setting(p, api.AnnotationPathOf+name, name, parsePath)
		t := tokenRequest{
			name:              name,
			expirationSeconds: setting(p, api.AnnotationExpirationOf+name, expiration, parseExpiration),
			path:              relative,
			file:              req.mountPath + "/" + relative,
			mode:              setting(p, api.AnnotationFileModeOf+name, mode, parseFileMode),
		}
		var preset *preset
		if p.formatted {
			preset = p.presetOf(&t)
		}
		t.audiences = p.audiences(&t, preset)
		t.env = p.env(name, preset)
		if preset != nil {
			p.setPreset(&t, preset)
		}
		if p.formatted {
			p.format(&t, req.mountPath, preset)
		}
		req.tokens = append(req.tokens, t)
	}
	p.checkUnique(req.tokens)
	if p.formatted {
		p.checkSize(req)
	}
	for _, base := range []string{api.AnnotationExpiration, api.AnnotationFileMode} {
		set := p.own(base)
		usesIt := func(t tokenRequest) bool { _, own := p.annotations[base+"."+t.name]; return !own }
		if set && len(req.tokens) > 0 && !slices.ContainsFunc(req.tokens, usesIt) {
			req.warnings = append(req.warnings, fmt.Sprintf("%s has no effect: every token has its own", base))
		}
	}
}

// own reports whether the pod itself has the annotation.
func (p *parser) own(key string) bool {
	_, set := p.annotations[key]
	_, ofProfile := p.profile[key]
	return set && !ofProfile
}

// audiences returns those of the token, which default to the preset's.
func (p *parser) audiences(t *tokenRequest, preset *preset) []string {
	key := api.AnnotationAudienceOf + t.name
	if _, ok := p.annotations[key]; !ok && t.name == api.DefaultTokenName {
		key = api.AnnotationAudience
	}
	if _, ok := p.annotations[key]; !ok && preset != nil {
		return []string{preset.audience(p.annotations[preset.key+t.name])}
	}
	return setting(p, key, nil, parseAudiences)
}

// env returns the name of the token's variable, empty for none.
func (p *parser) env(token string, preset *preset) string {
	key := api.AnnotationEnvOf + token
	if _, ok := p.annotations[key]; ok {
		return setting(p, key, "", parseEnv)
	}
	if preset != nil && preset.namesFile {
		return ""
	}
	name := strings.ToUpper(strings.ReplaceAll(token, "-", "_")) + "_TOKEN_FILE"
	if name[0] >= '0' && name[0] <= '9' {
		p.need("the token %q begins with a digit, so there is no default name for its variable: add %s with a name, or %q for no variable",
			token, key, api.EnvNone)
		return ""
	}
	return name
}

// checkPort checks what goes with the sidecar's port. The containers' ports are looked at elsewhere.
func (p *parser) checkPort(req *request) {
	if _, set := p.annotations[api.AnnotationMetricsPort]; req.readiness && !set {
		p.need(`%s: "true" needs a port that the kubelet can ask: add %s, or set this to "false"`,
			p.label(api.AnnotationReadiness), api.AnnotationMetricsPort)
	}
	if u, err := url.Parse(req.notify); err == nil && req.metricsPort != 0 && u.Port() == strconv.Itoa(int(req.metricsPort)) {
		p.add(api.ReasonInvalidValue, "%s: %d is the application's port in %s already: use another",
			p.label(api.AnnotationMetricsPort), req.metricsPort, api.AnnotationNotify)
	}
}

// checkProjected checks what a plain kubelet volume cannot do.
func (p *parser) checkProjected(req *request) {
	for _, t := range req.tokens {
		if len(t.audiences) > 1 {
			p.add(api.ReasonInvalidValue, "%s: %q allows one audience per token and the token %q has %d: use %q, or a token for each audience",
				api.AnnotationDelivery, api.DeliveryProjected, t.name, len(t.audiences), api.DeliverySidecar)
		}
		if key := p.writesFiles(&t); key != "" {
			p.add(api.ReasonInvalidValue, "%s: %q has no sidecar that could write the file of %s: use %q, or remove that annotation",
				api.AnnotationDelivery, api.DeliveryProjected, p.label(key), api.DeliverySidecar)
		}
	}
	for _, base := range sidecarSettings {
		keys := []string{base}
		if settings[base] == bothScopes {
			for _, t := range req.tokens {
				keys = append(keys, base+"."+t.name)
			}
		}
		for _, key := range keys {
			if p.own(key) {
				req.warnings = append(req.warnings, fmt.Sprintf("%s has no effect with %s: %s", key, api.AnnotationDelivery, api.DeliveryProjected))
			}
		}
	}
}
