// Package inspect is the command `kubectl podtoken inspect`: the claims of a token on disk, never its signature.
package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/internal/plugin/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

const long = `Prints header and claims of a token as it lies on disk: of a pod's tokens as its sidecar reads them, or of a local file. The
signature is never printed, nor does it leave the pod, so what is printed is no token.

Signatures are not checked: the claims are what the file says.`

const example = `  kubectl podtoken inspect mypod
  kubectl podtoken inspect mypod vault
  kubectl podtoken inspect --file token.jwt`

// maxFileBytes bounds what is read of a file.
const maxFileBytes = 1 << 20

// Token is a token without its signature.
type Token struct {
	Pod    string          `json:"pod,omitempty"`
	Name   string          `json:"token,omitempty"`
	Path   string          `json:"path"`
	Mode   string          `json:"mode,omitempty"`
	Header json.RawMessage `json:"header,omitempty"`
	Claims json.RawMessage `json:"claims,omitempty"`
	// Times are those in the claims, for people.
	Times *times `json:"times,omitempty"`
	// Problem is why the token cannot be used.
	Problem string `json:"problem,omitempty"`
}

type times struct {
	IssuedAt time.Time `json:"issuedAt"`
	Expires  time.Time `json:"expires"`
	Lifetime string    `json:"lifetime"`
}

// New returns the command.
func New(e *plugin.Env) *cobra.Command {
	var file string
	command := &cobra.Command{
		Use: "inspect POD [TOKEN]", Short: "Print the claims of tokens on disk, never a signature",
		Long: long, Example: example, Args: cobra.MaximumNArgs(2), ValidArgsFunction: e.CompletePods,
	}
	command.Flags().StringVar(&file, "file", "", "local `file` with a token, or - for standard input")
	command.RunE = func(command *cobra.Command, args []string) error {
		switch {
		case file != "" && len(args) > 0:
			return errors.New("--file goes without a pod's name: leave one out")
		case file != "":
			return inspectFile(e, file)
		case len(args) == 0:
			return errors.New("there is nothing to inspect: name a pod, or a file with --file")
		}
		return inspectPod(command.Context(), e, args[0], strings.Join(args[1:], ""))
	}
	return command
}

func inspectFile(e *plugin.Env, path string) error {
	reader, name := e.In, "standard input"
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		reader, name = file, path
	}
	content, err := io.ReadAll(io.LimitReader(reader, maxFileBytes))
	if err != nil {
		return err
	}
	// Whoever copied it may have added a line break.
	text := strings.TrimSpace(string(content))
	token := Token{Path: name}
	if token.Header, token.Claims, err = jwt.Segments(text); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	claims, err := jwt.Parse(text)
	if err != nil {
		return err
	}
	token.setTimes(claims)
	if !claims.Expires.After(e.Now()) {
		token.Problem = "expired by this machine's clock"
	}
	return plugin.PrintJSON(e.Out, token)
}

func inspectPod(ctx context.Context, e *plugin.Env, argument, name string) error {
	c, err := e.Connect()
	if err != nil {
		return err
	}
	pods, err := c.PodsOf(ctx, argument)
	if err != nil {
		return err
	}
	if len(pods) != 1 {
		return fmt.Errorf("%q has %d injected pods: name one of them", argument, len(pods))
	}
	details, err := sidecar.Details(ctx, c, &pods[0])
	if err != nil {
		return err
	}
	var tokens []Token
	var names []string
	for i := range details.Tokens {
		d := &details.Tokens[i]
		names = append(names, d.Name)
		if name != "" && name != d.Name {
			continue
		}
		token := Token{
			Pod: pods[0].Namespace + "/" + pods[0].Name, Name: d.Name, Path: d.Path, Mode: d.Mode,
			Header: d.Header, Claims: d.Claims, Problem: d.Problem,
		}
		token.timesOfClaims()
		tokens = append(tokens, token)
	}
	if len(tokens) == 0 {
		return fmt.Errorf("pod %s has no token %q: it has %s", pods[0].Name, name, strings.Join(names, ", "))
	}
	for _, token := range tokens {
		if err := plugin.PrintJSON(e.Out, token); err != nil {
			return err
		}
	}
	return nil
}

func (t *Token) setTimes(claims jwt.Claims) {
	t.Times = &times{claims.IssuedAt.UTC(), claims.Expires.UTC(), claims.Expires.Sub(claims.IssuedAt).String()}
}

// timesOfClaims sets the times by claims without a token around them.
func (t *Token) timesOfClaims() {
	var claims struct {
		IssuedAt int64 `json:"iat"`
		Expires  int64 `json:"exp"`
	}
	if json.Unmarshal(t.Claims, &claims) == nil && claims.Expires > 0 {
		t.setTimes(jwt.Claims{IssuedAt: time.Unix(claims.IssuedAt, 0), Expires: time.Unix(claims.Expires, 0)})
	}
}
