package grant

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
)

const (
	// tokenPrefix begins the sidecar's arguments that declare tokens.
	tokenPrefix = "--" + api.FlagToken + "="
	// maxTokenBytes is how many bytes of declarations of one pod are read. The webhook's largest pods have half of it;
	// more is a pod that was made by hand to be large.
	maxTokenBytes = 256 << 10
	// maxDeclaredBytes is how many bytes of names and audiences are kept of one pod: the audiences of 16 tokens (the
	// default of tokens.maxPerPod), each with the most audiences of the greatest length, and some for their names.
	maxDeclaredBytes = 72 << 10
	// maxNamespaceBytes is how many bytes are kept of all different declarations in one namespace. Pods of a ServiceAccount that
	// declare the same, as those of a Deployment do, share them, so that it takes some 2,000 different declarations of usual size.
	maxNamespaceBytes = 2 << 20
	// maxProblemsBytes is the same for sidecars that cannot be understood. They have a room of their own, and take none of the others.
	maxProblemsBytes = 256 << 10
	// declarationBytes is what a declaration costs beside its texts.
	declarationBytes = 1 << 10
	// maxKeptName is how many bytes of a token's name are kept: more than a message quotes.
	maxKeptName = 128
	// maxProblemBytes is how many bytes of a problem are kept, which quotes what a pod's author wrote.
	maxProblemBytes = 256
	// collectInterval is how often a full namespace may have the garbage collected.
	collectInterval = 10 * time.Second
)

// declaration is what is kept of a pod's sidecar: that by which it is granted something. It does not change.
type declaration struct {
	account types.NamespacedName
	key     string
	// tokens have a name, audiences and a lifetime only.
	tokens []api.TokenSpec
	// problem tells why there are no tokens.
	problem string
}

// newDeclaration returns what a sidecar with these arguments declares, and what it costs to keep it.
func newDeclaration(account types.NamespacedName, args []string) (d *declaration, size int) {
	tokens, err := parseTokens(args)
	problem := ""
	if err != nil {
		problem = cut(err.Error(), maxProblemBytes)
	}
	key, size := keyOf(account.Name, tokens, problem)
	return &declaration{account: account, key: key, tokens: tokens, problem: problem}, size
}

// keyOf returns a hash of the declaration, and what it costs to keep it.
func keyOf(account string, tokens []api.TokenSpec, problem string) (key string, size int) {
	hash := sha256.New()
	number := func(n int64) { _ = binary.Write(hash, binary.LittleEndian, n) }
	text := func(s string) {
		number(int64(len(s)))
		_, _ = hash.Write([]byte(s))
	}
	text(account)
	text(problem)
	for i := range tokens {
		text(tokens[i].Name)
		number(tokens[i].ExpirationSeconds)
		number(int64(len(tokens[i].Audiences)))
		for _, audience := range tokens[i].Audiences {
			text(audience)
		}
	}
	return string(hash.Sum(nil)), declarationBytes + len(problem) + sizeOf(tokens)
}

// Bytes in memory beside a text, and beside the texts of a token.
const (
	stringBytes = 16
	tokenBytes  = 144
)

func sizeOf(tokens []api.TokenSpec) int {
	size := 0
	for i := range tokens {
		size += tokenBytes + len(tokens[i].Name)
		for _, audience := range tokens[i].Audiences {
			size += stringBytes + len(audience)
		}
	}
	return size
}

// parseTokens reads the tokens in a sidecar's arguments. Of each it returns name, audiences and lifetime.
func parseTokens(args []string) ([]api.TokenSpec, error) {
	var tokens []api.TokenSpec
	read, kept := 0, 0
	for _, arg := range args {
		value, ok := strings.CutPrefix(arg, tokenPrefix)
		if !ok {
			continue
		}
		if read += len(arg); read > maxTokenBytes {
			return nil, fmt.Errorf("its arguments --%s have more than %d bytes together", api.FlagToken, maxTokenBytes)
		}
		if value == "" {
			return nil, fmt.Errorf("argument --%s is empty", api.FlagToken)
		}
		token, err := config.ParseDeclaration(value)
		if err != nil {
			return nil, fmt.Errorf("argument --%s is not the JSON that the webhook writes: %w", api.FlagToken, err)
		}
		one := api.TokenSpec{
			Name:              strings.Clone(token.Name[:min(len(token.Name), maxKeptName)]),
			Audiences:         slices.Clone(token.Audiences),
			ExpirationSeconds: token.ExpirationSeconds,
		}
		if kept += sizeOf([]api.TokenSpec{one}); kept > maxDeclaredBytes {
			return nil, fmt.Errorf("its arguments --%s have more than %d bytes of names and audiences together", api.FlagToken, maxDeclaredBytes)
		}
		tokens = append(tokens, one)
	}
	if len(tokens) == 0 {
		return nil, errors.New("it has no argument --" + api.FlagToken)
	}
	return slices.Clip(tokens), nil
}
