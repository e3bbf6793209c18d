package mutate

import (
	"slices"
	"strings"

	"github.com/podtoken/podtoken/pkg/jsonread"
)

// Variables are the environment of a container as it stands in the pod. Of hundreds of variables a decision needs to know
// whether one or two names are among them, so they are looked for in the JSON, and only read when they seem to be there.
type Variables struct {
	// raw is an array, or empty.
	raw string
}

// EnvVar is one of Variables. Value is empty when the variable has a valueFrom.
type EnvVar struct {
	Name  string
	Value string
}

// Empty tells whether the array has no element.
func (v Variables) Empty() bool {
	return v.raw == "" || strings.TrimLeft(v.raw[1:], " \t\r\n") == "]"
}

// mayHave is false when there is no variable of the name for sure: names that are written with escapes, which no API server
// does, would not be seen.
func (v Variables) mayHave(name string) bool {
	return strings.Contains(v.raw, `"`+name+`"`) || strings.Contains(v.raw, `\`)
}

// List reads them all.
func (v Variables) List() []EnvVar {
	var list []EnvVar
	if v.raw != "" {
		_ = jsonread.Document([]byte(v.raw), func(r *jsonread.Reader) { list = readList(r, readEnvVar) }) // What is no variable is empty.
	}
	return list
}

func readEnvVar(r *jsonread.Reader) (e EnvVar) {
	r.Object(func(name string) {
		switch name {
		case "name":
			e.Name = r.String()
		case "value":
			e.Value = r.String()
		default:
			r.Skip()
		}
	})
	return e
}

// environment are the Variables of a member, which are read at most once.
type environment struct {
	Variables

	list []EnvVar
	read bool
}

// value returns the value of the first variable of the name, and whether there is one.
func (e *environment) value(name string) (value string, found bool) {
	if name == "" || !e.mayHave(name) {
		return "", false
	}
	if !e.read {
		e.list, e.read = e.List(), true
	}
	i := slices.IndexFunc(e.list, func(v EnvVar) bool { return v.Name == name })
	if i < 0 {
		return "", false
	}
	return e.list[i].Value, true
}

// has tells whether there is a variable of the name.
func (e *environment) has(name string) bool {
	_, found := e.value(name)
	return found
}
