package mutate

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

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
	wait             bool
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
}

// problem is one reason for a denial. The text names the annotation or field, its value, what is allowed, what to do.
type problem struct {
	reason api.Reason
	text   string
}

// limitError is the error of a value that is well-formed and more than the installation allows.
type limitError string

func (e limitError) Error() string { return string(e) }

// scope tells which forms of an annotation's key there are.
type scope int

const (
	// podScope: only the plain key.
	podScope scope = iota
	// tokenScope: only with a token's name as suffix.
	tokenScope
	// bothScopes: with a token's name, and plain (for all tokens).
	bothScopes
)

// settings are the known keys without suffix. AnnotationStatus is absent: it is not the user's.
var settings = map[string]scope{
	api.AnnotationAudience:         bothScopes,
	api.AnnotationExpiration:       bothScopes,
	pathSetting:                    tokenScope,
	envSetting:                     tokenScope,
	api.AnnotationFileMode:         bothScopes,
	api.AnnotationMountPath:        podScope,
	api.AnnotationContainers:       podScope,
	api.AnnotationSkipContainers:   podScope,
	api.AnnotationRefreshAt:        podScope,
	api.AnnotationWait:             podScope,
	api.AnnotationNotify:           podScope,
	api.AnnotationNotifySignal:     podScope,
	api.AnnotationMetricsPort:      podScope,
	api.AnnotationReadiness:        podScope,
	api.AnnotationDelivery:         podScope,
	api.AnnotationSidecarResources: podScope,
	api.AnnotationInject:           podScope,
}

// Settings that exist only with a token's name, without the dot before it.
var (
	pathSetting = strings.TrimSuffix(api.AnnotationPathOf, ".")
	envSetting  = strings.TrimSuffix(api.AnnotationEnvOf, ".")
)

// sidecarSettings have no effect with DeliveryProjected. Those of bothScopes count with a token's name, too.
var sidecarSettings = []string{
	api.AnnotationFileMode, api.AnnotationRefreshAt, api.AnnotationWait, api.AnnotationNotify, api.AnnotationNotifySignal,
	api.AnnotationMetricsPort, api.AnnotationReadiness, api.AnnotationSidecarResources,
}

// parser collects what is wrong while it reads the annotations.
type parser struct {
	annotations map[string]string
	limits      *TokensConfig
	problems    []problem
}

// parse reads the annotations of a pod that has at least one of ours. It reports all problems, in a fixed order: the
// switch, the keys (sorted), the settings of the pod, the tokens (by name). With problems the request is not complete.
func parse(annotations map[string]string, limits *TokensConfig) (*request, []problem) {
	p := &parser{annotations: annotations, limits: limits}
	if value, ok := annotations[api.AnnotationInject]; ok && value != "true" {
		p.fail(api.ReasonInvalidValue, api.AnnotationInject, value, errors.New(`is not allowed: use "true" or "false"`))
	}
	names := p.keys()
	req := &request{
		mountPath:        setting(p, api.AnnotationMountPath, api.DefaultMountPath, parseMountPath),
		containers:       setting(p, api.AnnotationContainers, nil, parseNames),
		skipContainers:   setting(p, api.AnnotationSkipContainers, nil, parseNames),
		refreshAtPercent: setting(p, api.AnnotationRefreshAt, api.DefaultRefreshAtPercent, parseRefreshAt),
		wait:             setting(p, api.AnnotationWait, true, parseBool),
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
	p.problems = append(p.problems, problem{reason, fmt.Sprintf(format, args...)})
}

func (p *parser) fail(reason api.Reason, key, value string, err error) {
	if errors.As(err, new(limitError)) {
		reason = api.ReasonLimitExceeded
	}
	p.add(reason, "%s: %s %s", key, quote(value), err)
}

// setting returns the parsed value of the annotation, or the fallback when there is none or it is wrong.
func setting[T any](p *parser, key string, fallback T, parse func(string) (T, error)) T {
	value, ok := p.annotations[key]
	if !ok {
		return fallback
	}
	parsed, err := parse(value)
	if err != nil {
		p.fail(api.ReasonInvalidValue, key, value, err)
		return fallback
	}
	return parsed
}

// keys checks the keys and returns the names of the tokens, sorted.
func (p *parser) keys() []string {
	// Token names that some setting uses, with the first such key in sorted order; "" for those with an audience.
	used := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(p.annotations)) {
		rest, ours := strings.CutPrefix(key, api.Prefix)
		if !ours || key == api.AnnotationStatus {
			continue
		}
		base, token, suffixed := strings.Cut(rest, ".")
		base = api.Prefix + base
		scope, known := settings[base]
		switch {
		case !known || suffixed && scope == podScope || !suffixed && scope == tokenScope:
			p.add(api.ReasonUnknownAnnotation, "%s is not a known annotation: %s", plain(key), hint(base, token))
		case suffixed && !isTokenName(token):
			p.add(api.ReasonInvalidValue, "%s: %s is not a token's name: use 1 to %d lower-case letters, digits and '-', "+
				"with a letter or digit at both ends", plain(key), quote(token), api.MaxTokenNameLength)
		case base == api.AnnotationAudience:
			if !suffixed {
				token = api.DefaultTokenName
			} else if _, both := p.annotations[base]; both && token == api.DefaultTokenName {
				p.add(api.ReasonInvalidValue, "%s and %s both name the audiences of the token %q: remove one", base, key, token)
			}
			used[token] = ""
		case suffixed:
			// audience.<token> sorts before every other setting, so a token that is missing here has no audience.
			if _, ok := used[token]; !ok {
				used[token] = key
			}
		}
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if key := used[name]; key != "" {
			p.add(api.ReasonNoAudience, "%s: there is no token %q: add %s%s with the token's audiences, or remove this annotation",
				key, name, api.AnnotationAudienceOf, name)
			continue
		}
		names = append(names, name)
	}
	if len(names) == 0 && len(p.problems) == 0 {
		p.add(api.ReasonNoAudience, `the pod has podtoken annotations and asks for no token: add %s<name> with the audiences of a token, `+
			`or set %s to "false"`, api.AnnotationAudienceOf, api.AnnotationInject)
	}
	return names
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
		audienceKey := api.AnnotationAudienceOf + name
		if _, ok := p.annotations[audienceKey]; !ok {
			audienceKey = api.AnnotationAudience
		}
		relative := setting(p, api.AnnotationPathOf+name, name, parsePath)
		req.tokens = append(req.tokens, tokenRequest{
			name:              name,
			audiences:         setting(p, audienceKey, nil, parseAudiences),
			expirationSeconds: setting(p, api.AnnotationExpirationOf+name, expiration, parseExpiration),
			path:              relative,
			file:              req.mountPath + "/" + relative,
			env:               p.env(name),
			mode:              setting(p, api.AnnotationFileModeOf+name, mode, parseFileMode),
		})
	}
	p.checkUnique(req.tokens)
	for _, base := range []string{api.AnnotationExpiration, api.AnnotationFileMode} {
		_, set := p.annotations[base]
		usesIt := func(t tokenRequest) bool { _, own := p.annotations[base+"."+t.name]; return !own }
		if set && len(req.tokens) > 0 && !slices.ContainsFunc(req.tokens, usesIt) {
			req.warnings = append(req.warnings, fmt.Sprintf("%s has no effect: every token has its own", base))
		}
	}
}

// env returns the name of the token's variable, empty for none.
func (p *parser) env(token string) string {
	key := api.AnnotationEnvOf + token
	if _, ok := p.annotations[key]; ok {
		return setting(p, key, "", parseEnv)
	}
	name := strings.ToUpper(strings.ReplaceAll(token, "-", "_")) + "_TOKEN_FILE"
	if name[0] >= '0' && name[0] <= '9' {
		p.add(api.ReasonInvalidValue, "the token %q begins with a digit, so there is no default name for its variable: add %s with a name, or %q for no variable",
			token, key, api.EnvNone)
		return ""
	}
	return name
}

// checkUnique checks that tokens get in each other's way neither in the directory nor in the environment.
func (p *parser) checkUnique(tokens []tokenRequest) {
	paths, envs := map[string]string{}, map[string]string{}
	for _, t := range tokens {
		if other, taken := paths[t.path]; taken {
			p.add(api.ReasonInvalidValue, "the tokens %q and %q have the same path %s: give one another with %s<token>", other, t.name, quote(t.path), api.AnnotationPathOf)
		} else {
			paths[t.path] = t.name
		}
		if other, taken := envs[t.env]; taken && t.env != "" {
			p.add(api.ReasonInvalidValue, "the tokens %q and %q have the same variable %s: give one another with %s<token>, or %q for no variable",
				other, t.name, quote(t.env), api.AnnotationEnvOf, api.EnvNone)
		} else {
			envs[t.env] = t.name
		}
	}
	for _, t := range tokens {
		for i := range len(t.path) {
			if t.path[i] != '/' {
				continue
			}
			if other, taken := paths[t.path[:i]]; taken {
				p.add(api.ReasonInvalidValue, "the path %s of the token %q needs a folder where the file of the token %q is: give one another with %s<token>",
					quote(t.path), t.name, other, api.AnnotationPathOf)
			}
		}
	}
}

// checkPort checks what goes with the sidecar's port. The containers' ports are looked at elsewhere.
func (p *parser) checkPort(req *request) {
	if _, set := p.annotations[api.AnnotationMetricsPort]; req.readiness && !set {
		p.add(api.ReasonInvalidValue, `%s: "true" needs a port that the kubelet can ask: add %s, or set this to "false"`,
			api.AnnotationReadiness, api.AnnotationMetricsPort)
	}
	if u, err := url.Parse(req.notify); err == nil && req.metricsPort != 0 && u.Port() == strconv.Itoa(int(req.metricsPort)) {
		p.add(api.ReasonInvalidValue, "%s: %d is the application's port in %s already: use another",
			api.AnnotationMetricsPort, req.metricsPort, api.AnnotationNotify)
	}
}

// checkProjected checks what a plain kubelet volume cannot do.
func (p *parser) checkProjected(req *request) {
	for _, t := range req.tokens {
		if len(t.audiences) > 1 {
			p.add(api.ReasonInvalidValue, "%s: %q allows one audience per token and the token %q has %d: use %q, or a token for each audience",
				api.AnnotationDelivery, api.DeliveryProjected, t.name, len(t.audiences), api.DeliverySidecar)
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
			if _, set := p.annotations[key]; set {
				req.warnings = append(req.warnings, fmt.Sprintf("%s has no effect with %s: %s", key, api.AnnotationDelivery, api.DeliveryProjected))
			}
		}
	}
}
