package tokenfile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podtoken/podtoken/pkg/api"
)

// machine executes steps once.
type machine struct {
	vars   []variable
	out    strings.Builder
	limit  int
	strict bool

	// steps counts steps and calls, and made the bytes that functions have returned.
	steps, made int
}

type variable struct {
	name  string
	value any
}

func (m *machine) run(steps []api.Step, root any) (string, error) {
	m.vars = []variable{{"$", root}}
	if err := m.list(root, steps); err != nil {
		return "", err
	}
	return m.out.String(), nil
}

// errorAt is an error about a part of the template: where it is, and what is wrong there.
func errorAt(at string, err error) error {
	if at == "" {
		return err
	}
	return fmt.Errorf("%s: %w", at, err)
}

func (m *machine) write(at, text string) error {
	if m.out.Len()+len(text) > m.limit {
		return errorAt(at, fmt.Errorf("the file would be longer than %d bytes", m.limit))
	}
	m.out.WriteString(text)
	return nil
}

func (m *machine) count(at string) error {
	if m.steps++; m.steps > maxSteps {
		return errorAt(at, errors.New("the template takes too many steps: use fewer loops in loops"))
	}
	return nil
}

// list executes steps, and forgets the variables that are declared in them.
func (m *machine) list(dot any, steps []api.Step) error {
	mark := len(m.vars)
	for i := range steps {
		if err := m.count(steps[i].At); err != nil {
			return err
		}
		if err := m.step(dot, &steps[i]); err != nil {
			return err
		}
	}
	m.vars = m.vars[:mark]
	return nil
}

func (m *machine) step(dot any, s *api.Step) error {
	if s.Value == nil {
		return m.write(s.At, s.Text)
	}
	value, err := m.value(dot, s.Value)
	if err != nil {
		return err
	}
	switch s.Do {
	case "":
		return m.write(s.At, text(value))
	case api.DoSet:
		m.declare(s.Vars, value)
		return nil
	case api.DoAssign:
		return m.assign(s, value)
	case api.DoIf, api.DoWith:
		return m.branch(dot, s, value)
	case api.DoRange:
		return m.loop(dot, s, value)
	}
	return errorAt(s.At, fmt.Errorf("nobody knows how to do %.20q", s.Do))
}

// branch executes what follows an if or a with. In a check both ways are gone.
func (m *machine) branch(dot any, s *api.Step, value any) error {
	mark := len(m.vars)
	m.declare(s.Vars, value)
	if m.strict || !empty(value) {
		inner := dot
		if s.Do == api.DoWith {
			inner = value
		}
		if err := m.list(inner, s.Then); err != nil {
			return err
		}
	}
	if m.strict || empty(value) {
		if err := m.list(dot, s.Else); err != nil {
			return err
		}
	}
	m.vars = m.vars[:mark]
	return nil
}

func (m *machine) loop(dot any, s *api.Step, value any) error {
	body := func(key, element any) error {
		mark := len(m.vars)
		if len(s.Vars) == 2 {
			m.declare(s.Vars, key, element)
		} else {
			m.declare(s.Vars, element)
		}
		err := m.list(element, s.Then)
		m.vars = m.vars[:mark]
		return err
	}
	count := 0
	switch value := value.(type) {
	case nil:
	case []any:
		count = len(value)
		for i, element := range value {
			if err := body(int64(i), element); err != nil {
				return err
			}
		}
	case map[string]any:
		count = len(value)
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if err := body(key, value[key]); err != nil {
				return err
			}
		}
	default:
		return errorAt(s.At, fmt.Errorf("range over %s: use a list or a map", kind(value)))
	}
	if m.strict && count == 0 {
		return errorAt(s.At, errors.New("range over what is always empty"))
	}
	if m.strict || count == 0 {
		return m.list(dot, s.Else)
	}
	return nil
}

// declare adds variables until the end of the list of steps.
func (m *machine) declare(names []string, values ...any) {
	for i, name := range names {
		if i < len(values) {
			m.vars = append(m.vars, variable{name, values[i]})
		}
	}
}

// assign gives a variable another value. It must stay of its kind, so that a check knows the kinds of all values.
func (m *machine) assign(s *api.Step, value any) error {
	for i := len(m.vars) - 1; i > 0; i-- {
		v := &m.vars[i]
		if !slices.Contains(s.Vars, v.name) {
			continue
		}
		if v.value != nil && value != nil && kind(v.value) != kind(value) {
			return errorAt(s.At, fmt.Errorf("the variable holds %s and would get %s", kind(v.value), kind(value)))
		}
		v.value = value
		return nil
	}
	return errorAt(s.At, errors.New("this variable cannot be changed"))
}

func (m *machine) value(dot any, e *api.Expr) (any, error) {
	if e.Call != "" {
		value, err := m.call(dot, e)
		if err != nil {
			return nil, err
		}
		return m.members(e, value, e.Get)
	}
	if e.Literal != nil {
		return normal(e.Literal), nil
	}
	if !strings.HasPrefix(e.Get, "$") {
		return m.members(e, dot, e.Get)
	}
	name, rest, _ := strings.Cut(e.Get, ".")
	for i := len(m.vars) - 1; i >= 0; i-- {
		if m.vars[i].name == name {
			return m.members(e, m.vars[i].value, rest)
		}
	}
	return nil, errorAt(e.At, errors.New("there is no such variable"))
}

func (m *machine) call(dot any, e *api.Expr) (any, error) {
	if err := m.count(e.At); err != nil {
		return nil, err
	}
	f, known := functions[e.Call]
	if !known {
		return nil, errorAt(e.At, fmt.Errorf("there is no function %.20q; there are %s", e.Call, strings.Join(Functions(), ", ")))
	}
	args := make([]any, 0, len(e.Args))
	for i := range e.Args {
		value, err := m.value(dot, &e.Args[i])
		if err != nil {
			return nil, err
		}
		args = append(args, value)
	}
	if len(args) < f.min || len(args) > f.max {
		return nil, errorAt(e.At, fmt.Errorf("%s has %d arguments: it takes %s", e.Call, len(args), f.arguments()))
	}
	value, err := f.call(m.strict, args)
	if err != nil {
		return nil, errorAt(e.At, fmt.Errorf("%s %w", e.Call, err))
	}
	if s, ok := value.(string); ok {
		if m.made += len(s); m.made > maxMade*m.limit {
			return nil, errorAt(e.At, errors.New("the template's functions make too much text: use fewer"))
		}
	}
	return value, nil
}

func (f function) arguments() string {
	if f.max == f.min {
		return fmt.Sprint(f.min)
	}
	return fmt.Sprintf("%d or more", f.min)
}

// members goes from a value to its member's member.
func (m *machine) members(e *api.Expr, value any, path string) (any, error) {
	for name := range strings.SplitSeq(path, ".") {
		if name == "" {
			continue
		}
		switch container := value.(type) {
		case nil:
			return nil, nil
		case map[string]any:
			var err error
			if value, err = member(m.strict, container, name); err != nil {
				return nil, errorAt(e.At, err)
			}
		default:
			return nil, errorAt(e.At, fmt.Errorf("there is nothing named %.100q in %s", name, kind(value)))
		}
	}
	return value, nil
}
