package tokenfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podtoken/podtoken/pkg/api"
)

// checkForm reports a step or value that package compile does not write. The machine would ignore a part of it.
func checkForm(steps []api.Step) error {
	for i := range steps {
		s := &steps[i]
		f, known := forms[s.Do]
		if !known {
			return errorAt(s.At, fmt.Errorf("nobody knows how to do %.20q", s.Do))
		}
		isText := s.Do == "" && s.Text != ""
		if (s.Value == nil) != isText || s.Text != "" && !isText || len(s.Vars) < f.minVars || len(s.Vars) > f.maxVars || slices.Contains(s.Vars, "") ||
			!f.lists && len(s.Then)+len(s.Else) > 0 {
			return errorAt(s.At, fmt.Errorf("a step of the kind %q has %s", s.Do, f.what))
		}
		if s.Value != nil {
			if err := checkValue(s.Value); err != nil {
				return err
			}
		}
		for _, list := range [][]api.Step{s.Then, s.Else} {
			if err := checkForm(list); err != nil {
				return err
			}
		}
	}
	return nil
}

type form struct {
	minVars, maxVars int
	lists            bool
	what             string
}

var forms = map[string]form{
	"":           {0, 0, false, "either a text or a value, and nothing else"},
	api.DoSet:    {1, 1, false, "a value and one variable, and nothing else"},
	api.DoAssign: {1, 1, false, "a value and one variable, and nothing else"},
	api.DoIf:     {0, 1, true, "a value, and at most one variable"},
	api.DoWith:   {0, 1, true, "a value, and at most one variable"},
	api.DoRange:  {0, 2, true, "a value, and at most two variables"},
}

func checkValue(e *api.Expr) error {
	fits := false
	switch {
	case e.Call != "":
		fits = e.Literal == nil && (e.Get == "" || isPath(e.Get))
	case e.Literal != nil:
		fits = len(e.Args) == 0 && e.Get == "" && isLiteral(e.Literal)
	default:
		variable, rest, inside := strings.Cut(e.Get, ".")
		fits = len(e.Args) == 0 && (e.Get == "." || isPath(e.Get) || strings.HasPrefix(variable, "$") && (!inside || isPath("."+rest)))
	}
	if !fits {
		return errorAt(e.At, fmt.Errorf("a value is a call of a function with its arguments, a literal (a text, a truth value, or a whole number "+
			"up to 2^53), or the path to a member, and this is call %.20q, literal %.20q, path %.100q", e.Call, fmt.Sprint(e.Literal), e.Get))
	}
	for i := range e.Args {
		if err := checkValue(&e.Args[i]); err != nil {
			return err
		}
	}
	return nil
}

// isPath reports whether get is ".member.member".
func isPath(get string) bool {
	members, ok := strings.CutPrefix(get, ".")
	return ok && !slices.Contains(strings.Split(members, "."), "")
}

func isLiteral(value any) bool {
	const limit = 1 << 53
	switch value := value.(type) {
	case string, bool:
		return true
	case int:
		return value >= -limit && value <= limit
	case int64:
		return value >= -limit && value <= limit
	case float64: // as JSON is decoded
		return value == float64(int64(value)) && value >= -limit && value <= limit
	}
	return false
}
