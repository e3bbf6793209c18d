package mutate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podtoken/podtoken/pkg/api"
)

// maxProfiles is the number of profiles of one pod.
const maxProfiles = 16

// notInProfiles are settings that are read from the pod before a profile is looked up, by API servers and policies too.
var notInProfiles = []string{api.AnnotationProfile, api.AnnotationInject, api.AnnotationDelivery, api.AnnotationStatus}

// addProfiles adds the settings of the profiles that the pod names, other than those that the pod has itself.
func (p *parser) addProfiles(all map[string]map[string]string) {
	value, ok := p.annotations[api.AnnotationProfile]
	if !ok {
		return
	}
	names, err := parseProfileNames(value, all)
	if err != nil {
		p.fail(api.AnnotationProfile, value, err)
		return
	}
	pod := map[string]bool{}
	for key := range p.annotations {
		pod[aspect(key)] = true
	}
	p.profile, p.annotations = map[string]string{}, maps.Clone(p.annotations)
	setters := map[string]string{} // by aspect
	for _, name := range names {
		for _, short := range slices.Sorted(maps.Keys(all[name])) {
			key, value := api.Prefix+short, all[name][short]
			what := aspect(key)
			if pod[what] || pod[general(key)] {
				continue
			}
			other, set := setters[what]
			switch {
			case !set || other == name:
				setters[what], p.profile[key], p.annotations[key] = name, name, value
			case p.annotations[key] != value:
				p.add(api.ReasonInvalidValue, "%s: the profiles %q and %q differ in %s: name one of them, or set that on the pod",
					api.AnnotationProfile, other, name, short)
			}
		}
	}
}

// aspect is what a key is about: keys of the same aspect exclude each other.
func aspect(key string) string {
	if key == api.AnnotationAudience {
		return api.AnnotationAudienceOf + api.DefaultTokenName
	}
	if token, ok := strings.CutPrefix(key, api.AnnotationTemplateOf); ok {
		return api.AnnotationFormatOf + token
	}
	return key
}

// general is the key without a token's name that holds for all tokens; empty when there is none.
func general(key string) string {
	base, _, suffixed := strings.Cut(strings.TrimPrefix(key, api.Prefix), ".")
	if base = api.Prefix + base; suffixed && settings[base] == bothScopes && base != api.AnnotationAudience {
		return base
	}
	return ""
}

// parseProfileNames returns the names. The error continues the text `<annotation>: "<value>" `.
func parseProfileNames(value string, all map[string]map[string]string) ([]string, error) {
	names := splitList(value)
	if len(names) == 0 || len(names) > maxProfiles {
		return nil, fmt.Errorf("names %d profiles: name 1 to %d, or remove this annotation", len(names), maxProfiles)
	}
	for i, name := range names {
		if _, ok := all[name]; !ok {
			if len(all) == 0 {
				return nil, errors.New("names a profile, and this installation has none: remove this annotation, or ask an administrator (profiles in the Helm chart's values)")
			}
			return nil, fmt.Errorf("names %s, which is not a profile of this installation: it has %s", quote(name),
				list(slices.Sorted(maps.Keys(all)), func(name string) string { return name }))
		}
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("names the profile %s twice: remove one", quote(name))
		}
	}
	return names, nil
}

// profileProblems tells what is wrong with the profiles, in a fixed order. What only a pod can complete is left to it.
func (c *Config) profileProblems() []string {
	var texts []string
	add := func(name, format string, args ...any) {
		texts = append(texts, fmt.Sprintf("profiles[%s]: %s", cut(name), fmt.Sprintf(format, args...)))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Profiles)) {
		if !isTokenName(name) {
			add(name, "the name must be 1 to %d lower-case letters, digits and '-', with a letter or digit at both ends", api.MaxTokenNameLength)
			continue
		}
		if len(c.Profiles[name]) == 0 {
			add(name, "it is empty: add settings as %q, or remove it", "expiration: 30m")
		}
		annotations := map[string]string{}
		for short, value := range c.Profiles[name] {
			if key := api.Prefix + short; slices.Contains(notInProfiles, key) {
				add(name, "%s can only be set on a pod", short)
			} else {
				annotations[key] = value
			}
		}
		completeTokens(annotations)
		_, problems := parse(annotations, &Config{Tokens: c.Tokens})
		for _, problem := range problems {
			if !problem.partial {
				add(name, "%s", problem.text)
			}
		}
	}
	return texts
}

// completeTokens adds what asks for a token where a profile leaves that to the pod, so that the token's other settings are
// looked at.
func completeTokens(annotations map[string]string) {
	missing := map[string]string{}
	asked := map[string]bool{api.DefaultTokenName: annotations[api.AnnotationAudience] != ""}
	for key := range annotations {
		base, token, suffixed := strings.Cut(strings.TrimPrefix(key, api.Prefix), ".")
		base = api.Prefix + base
		switch {
		case !suffixed || settings[base] == podScope || !isTokenName(token):
		case base == api.AnnotationAudience || asksByPreset(base):
			asked[token] = true
		default:
			for _, preset := range presets {
				if slices.Contains(preset.others, base+".") {
					missing[preset.key+token] = preset.example
				}
			}
			missing[api.AnnotationAudienceOf+token] = "of-the-pod"
		}
	}
	for key, value := range missing {
		_, token, _ := strings.Cut(strings.TrimPrefix(key, api.Prefix), ".")
		if !asked[token] {
			annotations[key] = value
		}
	}
}
