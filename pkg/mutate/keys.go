package mutate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podtoken/podtoken/pkg/api"
)

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
var settings = allSettings()

func allSettings() map[string]scope {
	all := map[string]scope{api.AnnotationAudience: bothScopes, api.AnnotationExpiration: bothScopes, api.AnnotationFileMode: bothScopes}
	for _, key := range []string{
		api.AnnotationMountPath, api.AnnotationContainers, api.AnnotationSkipContainers, api.AnnotationRefreshAt, api.AnnotationWait,
		api.AnnotationNotify, api.AnnotationNotifySignal, api.AnnotationMetricsPort, api.AnnotationReadiness, api.AnnotationDelivery,
		api.AnnotationSidecarResources, api.AnnotationProfile, api.AnnotationInject,
	} {
		all[key] = podScope
	}
	for _, key := range []string{
		api.AnnotationPathOf, api.AnnotationEnvOf, api.AnnotationFormatOf, api.AnnotationTemplateOf,
		api.AnnotationKubeconfigServerOf, api.AnnotationKubeconfigCAOf,
		api.AnnotationAWSRoleARNOf, api.AnnotationAWSRegionOf, api.AnnotationAWSSessionNameOf,
		api.AnnotationAzureClientIDOf, api.AnnotationAzureTenantIDOf, api.AnnotationAzureAuthorityHostOf,
		api.AnnotationGCPProviderOf, api.AnnotationGCPServiceAccountOf, api.AnnotationGCPTokenURLOf,
		api.AnnotationVaultRoleOf, api.AnnotationVaultAddrOf, api.AnnotationVaultAuthPathOf, api.AnnotationVaultNamespaceOf,
	} {
		all[strings.TrimSuffix(key, ".")] = tokenScope
	}
	return all
}

// keys checks the keys and returns the names of the tokens, sorted.
func (p *parser) keys() []string {
	// Token names that some setting uses, with the first such key in sorted order.
	used := map[string]string{}
	asked := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(p.annotations)) {
		if !IsRequest(key) {
			continue
		}
		rest, lower := strings.CutPrefix(key, api.Prefix)
		if !lower {
			p.add(api.ReasonUnknownAnnotation, "%s: annotations of podtoken begin with %s in lower case: %s", p.label(key), api.Prefix, inLowerCase(key))
			continue
		}
		base, token, suffixed := strings.Cut(rest, ".")
		base = api.Prefix + base
		scope, known := settings[base]
		switch {
		case !known || suffixed && scope == podScope || !suffixed && scope == tokenScope:
			p.unknown(key, base, token)
		case suffixed && !isTokenName(token):
			p.add(api.ReasonInvalidValue, "%s: %s is not a token's name: use 1 to %d lower-case letters, digits and '-', "+
				"with a letter or digit at both ends", p.label(key), quote(token), api.MaxTokenNameLength)
		case base == api.AnnotationAudience:
			if !suffixed {
				token = api.DefaultTokenName
			} else if _, both := p.annotations[base]; both && token == api.DefaultTokenName {
				p.add(api.ReasonInvalidValue, "%s and %s both name the audiences of the token %q: remove one", base, key, token)
			}
			asked[token] = true
		case suffixed:
			p.formatted = p.formatted || scope == tokenScope
			if asksByPreset(base) {
				asked[token] = true
			}
			if _, ok := used[token]; !ok {
				used[token] = key
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if !asked[name] {
			p.problems = append(p.problems, problem{api.ReasonNoAudience, fmt.Sprintf("%s: there is no token %q: add %s, "+
				"or remove this setting", p.label(used[name]), name, whatAsks(used[name], name)), true})
		}
	}
	names := slices.Sorted(maps.Keys(asked))
	if len(names) == 0 && len(p.problems) == 0 {
		p.problems = append(p.problems, problem{api.ReasonNoAudience, fmt.Sprintf(`the pod has podtoken annotations and asks for no token: add %s<name> `+
			`with the audiences of a token, or set %s to "false"`, api.AnnotationAudienceOf, api.AnnotationInject), true})
	}
	return names
}

// unknown is about a key that is not one of settings. Of problems that no message has room for, only the number matters: the nearest
// known key costs 20 microseconds, and a Pod has room for 100,000 keys.
func (p *parser) unknown(key, base, token string) {
	if len(p.problems) >= maxListed {
		p.problems = append(p.problems, problem{reason: api.ReasonUnknownAnnotation})
		return
	}
	p.add(api.ReasonUnknownAnnotation, "%s is not a known annotation: %s", p.label(key), hint(base, token))
}
