package grant

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
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
	// maxNamespaceBytes is how many bytes are kept of all different declarations in one namespace. Pods that declare the
	// same, as those of a Deployment do, share them, so that it takes some 2,000 different declarations of usual size.
	maxNamespaceBytes = 2 << 20
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
	// kept is the list of init containers of each pod with this declaration. It keeps the declaration in memory; its one
	// argument finds it again.
	kept [1]corev1.Container
	// tokens have a name, audiences and a lifetime only.
	tokens []api.TokenSpec
	// problem tells why there are no tokens.
	problem string
}

// errCrowded is the problem of pods for whose declaration the namespace has no room.
var errCrowded = fmt.Errorf("the pods of its namespace declare too many different tokens: podtoken keeps %d KiB of different declarations "+
	"in a namespace. Delete pods with tokens of their own, then this one", maxNamespaceBytes>>10)

// crowded is shared by all of them.
var crowded = newDeclaration("crowded", nil, errCrowded.Error())

func newDeclaration(key string, tokens []api.TokenSpec, problem string) *declaration {
	d := &declaration{tokens: tokens, problem: problem}
	d.kept[0] = corev1.Container{Name: api.ContainerName, Args: []string{key}}
	return d
}

// declarations are all of them, each once in a namespace and as long as a pod has it.
type declarations struct {
	mu         sync.Mutex
	namespaces map[string]*namespaceDeclarations
	// limit is maxNamespaceBytes.
	limit     int
	collected time.Time
}

type namespaceDeclarations struct {
	all   map[string]keptDeclaration
	bytes int
}

type keptDeclaration struct {
	value weak.Pointer[declaration]
	bytes int
}

// declared are those of the pods in the cache, which this process has one of.
var declared = &declarations{limit: maxNamespaceBytes}

// of returns the declaration of a sidecar with these arguments.
func (s *declarations) of(namespace string, args []string) *declaration {
	tokens, err := parseTokens(args)
	problem := ""
	if err != nil {
		problem = cut(err.Error(), maxProblemBytes)
	}
	key, size := keyOf(tokens, problem)

	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.namespaces[namespace]
	if n == nil {
		n = &namespaceDeclarations{all: map[string]keptDeclaration{}}
		if s.namespaces == nil {
			s.namespaces = map[string]*namespaceDeclarations{}
		}
		s.namespaces[namespace] = n
	}
	there, known := n.all[key]
	if d := there.value.Value(); d != nil {
		return d
	}
	if !known && n.bytes+size > s.limit && !s.makeRoom(n, size) {
		return crowded
	}
	if !known {
		n.bytes += size
	}
	d := newDeclaration(key, tokens, problem)
	n.all[key] = keptDeclaration{value: weak.Make(d), bytes: size}
	runtime.AddCleanup(d, func(key string) { s.drop(namespace, key) }, key)
	return d
}

// makeRoom reports whether there is room when those are gone that no pod has any more.
func (s *declarations) makeRoom(n *namespaceDeclarations, size int) bool {
	if now := time.Now(); now.Sub(s.collected) >= collectInterval {
		runtime.GC()
		s.collected = now
	}
	for key, there := range n.all {
		if there.value.Value() == nil {
			n.bytes -= there.bytes
			delete(n.all, key)
		}
	}
	return n.bytes+size <= s.limit
}

// drop forgets a declaration that is gone, unless it came again.
func (s *declarations) drop(namespace, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.namespaces[namespace]
	if n == nil {
		return
	}
	if there, known := n.all[key]; known && there.value.Value() == nil {
		n.bytes -= there.bytes
		delete(n.all, key)
	}
	if len(n.all) == 0 {
		delete(s.namespaces, namespace)
	}
}

// get returns the declaration of a pod out of the cache, nil if it declares nothing.
func (s *declarations) get(pod *corev1.Pod) *declaration {
	if len(pod.Spec.InitContainers) == 0 || len(pod.Spec.InitContainers[0].Args) == 0 {
		return nil
	}
	key := pod.Spec.InitContainers[0].Args[0]
	if key == crowded.kept[0].Args[0] {
		return crowded
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.namespaces[pod.Namespace]; n != nil {
		return n.all[key].value.Value() // Not nil: the pod keeps it.
	}
	return nil
}

// keyOf returns a hash of the declaration, and what it costs to keep it.
func keyOf(tokens []api.TokenSpec, problem string) (key string, size int) {
	hash := sha256.New()
	number := func(n int64) { _ = binary.Write(hash, binary.LittleEndian, n) }
	text := func(s string) {
		number(int64(len(s)))
		_, _ = hash.Write([]byte(s))
	}
	text(problem)
	for i := range tokens {
		text(tokens[i].Name)
		number(tokens[i].ExpirationSeconds)
		number(int64(len(tokens[i].Audiences)))
		for _, audience := range tokens[i].Audiences {
			text(audience)
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), declarationBytes + len(problem) + sizeOf(tokens)
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
		var token struct {
			Name              string   `json:"name"`
			Audiences         []string `json:"audiences"`
			ExpirationSeconds int64    `json:"expirationSeconds"`
		}
		if value == "" {
			return nil, fmt.Errorf("argument --%s is empty", api.FlagToken)
		}
		if err := json.Unmarshal([]byte(value), &token); err != nil {
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
