package tokenfile

import (
	"strings"
	"testing"

	"github.com/podtoken/podtoken/pkg/api"
)

// What cannot be a token is an error that says nothing of it.
func TestATokenThatIsNone(t *testing.T) {
	steps := []api.Step{{Value: &api.Expr{Get: ".token"}}}
	for token, want := range map[string]string{
		"SECRET":               "the token is no JWT",
		"a.SECRET!.b":          "the token's claims are not base64url",
		"a.U0VDUkVU.b":         "the token's claims are not a JSON object",
		"a.WyJTRUNSRVQiXQ.b":   "the token's claims are not a JSON object",
		"a.eyJhIjpTRUNSRVR9.b": "the token's claims are not a JSON object",
	} {
		text, err := Execute(steps, Values{Token: token})
		if err == nil || err.Error() != want || text != "" {
			t.Errorf("%s: %q, %v", token, text, err)
		}
	}
}

// Steps that nobody compiled, as a hand-written argument may have them, are errors and no panics.
func TestStepsThatNobodyCompiled(t *testing.T) {
	get := func(name string) *api.Expr { return &api.Expr{Get: name} }
	for name, c := range map[string]struct {
		step api.Step
		want string
	}{
		"an unknown step":     {api.Step{Do: "exec", Value: get(".")}, `nobody knows how to do "exec"`},
		"an unknown function": {api.Step{Value: &api.Expr{Call: "exec"}}, `there is no function "exec"; there are and, base64, `},
		"an unknown variable": {api.Step{Value: get("$x")}, "there is no such variable"},
		"a variable of none":  {api.Step{Do: api.DoAssign, Value: get(".token")}, "this variable cannot be changed"},
		"three variables":     {api.Step{Do: api.DoRange, Value: get(".audiences"), Vars: []string{"$a", "$b", "$c"}, Then: []api.Step{{Value: get("$b")}}}, "there is no such variable"},
		"nothing":             {api.Step{}, "it writes nothing"},
		"a literal map":       {api.Step{Value: &api.Expr{Call: "unix", Args: []api.Expr{{Literal: map[string]any{"a": 1.5}}}}}, "unix needs a time"},
	} {
		if err := Check([]api.Step{c.step}, []string{"a"}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
