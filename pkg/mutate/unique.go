package mutate

import (
	"github.com/podtoken/podtoken/pkg/api"
)

// paths are those of the files that users see.
func (t *tokenRequest) paths() []string {
	paths := []string{t.path}
	for _, file := range t.extra {
		paths = append(paths, file.path)
	}
	return paths
}

// checkUnique checks that tokens get in each other's way neither in the directory nor in the environment.
func (p *parser) checkUnique(tokens []tokenRequest) {
	paths, envs := map[string]string{}, map[string]string{}
	for _, t := range tokens {
		for _, path := range t.paths() {
			if other, taken := paths[path]; taken && other != t.name {
				p.add(api.ReasonInvalidValue, "the tokens %q and %q have the same path %s: give one another with %s<token>", other, t.name, quote(path), api.AnnotationPathOf)
			} else {
				paths[path] = t.name
			}
		}
		if other, taken := envs[t.env]; taken && t.env != "" {
			p.add(api.ReasonInvalidValue, "the tokens %q and %q have the same variable %s: give one another with %s<token>, or %q for no variable",
				other, t.name, quote(t.env), api.AnnotationEnvOf, api.EnvNone)
		} else {
			envs[t.env] = t.name
		}
		p.checkVariables(&t, envs)
	}
	for _, t := range tokens {
		for _, path := range t.paths() {
			p.checkFolders(t.name, path, paths)
		}
	}
}

// checkVariables checks those of the token's preset, until the first that is taken.
func (p *parser) checkVariables(t *tokenRequest, envs map[string]string) {
	for _, v := range t.variables {
		other, taken := envs[v.name]
		switch {
		case !taken:
			envs[v.name] = t.name
		case other != t.name:
			p.add(api.ReasonInvalidValue, "the tokens %q and %q both set the variable %s, which has one value: use one of them, or another pod",
				other, t.name, v.name)
			return
		case v.value != t.file:
			p.add(api.ReasonInvalidValue, "%s%s: %s is a variable of the token's preset already: use another name, or %q for no variable",
				api.AnnotationEnvOf, t.name, quote(v.name), api.EnvNone)
			return
		}
	}
}

// checkFolders checks that no folder of a path is a file.
func (p *parser) checkFolders(token, path string, paths map[string]string) {
	for i := range len(path) {
		if path[i] != '/' {
			continue
		}
		if other, taken := paths[path[:i]]; taken {
			p.add(api.ReasonInvalidValue, "the path %s of the token %q needs a folder where the file of the token %q is: give one another with %s<token>",
				quote(path), token, other, api.AnnotationPathOf)
		}
	}
}
