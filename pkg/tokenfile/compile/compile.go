// Package compile turns the text of a template into the steps that package tokenfile executes.
//
// The language is that of text/template without what the sidecar has no use for: no other templates, methods, break,
// continue and fractions. The webhook links this package, the sidecar does not.
package compile

import (
	"errors"
	"fmt"
	"strings"
	"text/template/parse"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

// MaxBytes is the length of a template. It becomes an argument, of which the kernel takes 128 KiB.
const MaxBytes = 8 << 10

// name is what the parser calls the template in its errors, from which it is removed.
const name = "file"

// Template returns the steps of the template, checked for tokens of the audiences. The error is for the template's author.
func Template(text string, audiences []string) ([]api.Step, error) {
	steps, err := Parse(text)
	if err == nil {
		err = tokenfile.Check(steps, audiences)
	}
	return steps, err
}

// Parse returns the steps of the template.
func Parse(text string) ([]api.Step, error) {
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("it has %d bytes, and at most %d are allowed", len(text), MaxBytes)
	}
	known := map[string]any{}
	for _, f := range tokenfile.Functions() {
		known[f] = f
	}
	trees, err := parse.Parse(name, text, "", "", known)
	if err != nil {
		message := strings.TrimPrefix(err.Error(), "template: "+name+":")
		if strings.HasSuffix(message, "not defined") && strings.Contains(message, "function") {
			message += "; there are " + strings.Join(tokenfile.Functions(), ", ")
		}
		return nil, errors.New("line " + message)
	}
	if len(trees) != 1 {
		return nil, errors.New("it defines other templates, and only one is allowed")
	}
	return compiler{text}.list(trees[name].Root)
}

// compiler has the template's text.
type compiler struct {
	text string
}

// maxShown is how much of the text stands in an error.
const maxShown = 60

// at tells where a node is: line, column, and the action. Texts between actions are not repeated, they may be secret. The
// parser's own ErrorContext would take a time that grows with the square of the length.
func (c compiler) at(n parse.Node) string {
	position := min(int(n.Position()), len(c.text))
	before := c.text[:position]
	line, column := 1+strings.Count(before, "\n"), position-strings.LastIndexByte(before, '\n')
	if _, isText := n.(*parse.TextNode); isText {
		return fmt.Sprintf("line %d:%d", line, column)
	}
	action, _, _ := strings.Cut(c.text[max(strings.LastIndex(before, "{{"), 0):], "}}")
	if len(action) > maxShown {
		action = strings.ToValidUTF8(action[:maxShown], "") + "..."
	}
	return fmt.Sprintf("line %d:%d: %q", line, column, action+"}}")
}

func (c compiler) fail(n parse.Node, format string, args ...any) error {
	return fmt.Errorf("%s: %s", c.at(n), fmt.Sprintf(format, args...))
}

func (c compiler) list(l *parse.ListNode) ([]api.Step, error) {
	if l == nil {
		return nil, nil
	}
	var steps []api.Step
	for _, n := range l.Nodes {
		step, err := c.step(n)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return steps, nil
}

func (c compiler) step(n parse.Node) (api.Step, error) {
	switch n := n.(type) {
	case *parse.TextNode:
		return api.Step{Text: string(n.Text), At: c.at(n)}, nil
	case *parse.ActionNode:
		step := api.Step{At: c.at(n)}
		switch {
		case n.Pipe.IsAssign:
			step.Do = api.DoAssign
		case len(n.Pipe.Decl) > 0:
			step.Do = api.DoSet
		}
		return step, c.pipe(n.Pipe, &step)
	case *parse.IfNode:
		return c.branch(api.DoIf, n, &n.BranchNode)
	case *parse.WithNode:
		return c.branch(api.DoWith, n, &n.BranchNode)
	case *parse.RangeNode:
		return c.branch(api.DoRange, n, &n.BranchNode)
	}
	return api.Step{}, c.fail(n, "only values, variables, if, with, range, else and end are allowed")
}

func (c compiler) branch(do string, n parse.Node, b *parse.BranchNode) (api.Step, error) {
	step := api.Step{Do: do, At: c.at(n)}
	if b.Pipe.IsAssign {
		return step, c.fail(n, "declare a variable here with := or assign it before")
	}
	err := c.pipe(b.Pipe, &step)
	if err != nil {
		return step, err
	}
	if step.Then, err = c.list(b.List); err != nil {
		return step, err
	}
	step.Else, err = c.list(b.ElseList)
	return step, err
}

// pipe sets value and variables of a step.
func (c compiler) pipe(p *parse.PipeNode, step *api.Step) error {
	value, err := c.commands(p)
	if err != nil {
		return err
	}
	step.Value = &value
	for _, decl := range p.Decl {
		step.Vars = append(step.Vars, decl.Ident[0])
	}
	return nil
}

// commands makes calls in calls out of a pipe.
func (c compiler) commands(p *parse.PipeNode) (api.Expr, error) {
	var value api.Expr
	for i, command := range p.Cmds {
		identifier, isFunction := command.Args[0].(*parse.IdentifierNode)
		if !isFunction {
			if i > 0 || len(command.Args) > 1 {
				return value, c.fail(command, "only functions take arguments; there are %s", strings.Join(tokenfile.Functions(), ", "))
			}
			var err error
			if value, err = c.word(command.Args[0]); err != nil {
				return value, err
			}
			continue
		}
		call := api.Expr{Call: identifier.Ident, At: c.at(command)}
		for _, word := range command.Args[1:] {
			arg, err := c.word(word)
			if err != nil {
				return value, err
			}
			call.Args = append(call.Args, arg)
		}
		if i > 0 {
			call.Args = append(call.Args, value)
		}
		value = call
	}
	return value, nil
}

// word is a single value.
func (c compiler) word(n parse.Node) (api.Expr, error) {
	if pipe, ok := n.(*parse.PipeNode); ok {
		return c.commands(pipe)
	}
	e := api.Expr{At: c.at(n)}
	switch n := n.(type) {
	case *parse.DotNode:
		e.Get = "."
	case *parse.FieldNode:
		e.Get = "." + strings.Join(n.Ident, ".")
	case *parse.VariableNode:
		e.Get = strings.Join(n.Ident, ".")
	case *parse.ChainNode:
		inner, err := c.word(n.Node)
		if err != nil {
			return e, err
		}
		if inner.Literal != nil {
			return e, c.fail(n, "a literal has no members")
		}
		inner.Get = strings.TrimSuffix(inner.Get, ".") + "." + strings.Join(n.Field, ".")
		return inner, nil
	case *parse.IdentifierNode:
		e.Call = n.Ident
	case *parse.StringNode:
		e.Literal = n.Text
	case *parse.BoolNode:
		e.Literal = n.True
	case *parse.NumberNode:
		// JSON, by which the sidecar gets the steps, has no greater ones.
		if limit := int64(1) << 53; !n.IsInt || n.Int64 > limit || n.Int64 < -limit {
			return e, c.fail(n, "only whole numbers up to 2^53 are allowed")
		}
		e.Literal = n.Int64
	default:
		return e, c.fail(n, "this is not allowed here")
	}
	return e, nil
}
