package grant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// The requests by which API servers prove that they enforce the guards. The controller's own guard exempts the first one,
// with exactly these properties, so that the denial is the guard's; charts/podtoken/templates/controller-guard.yaml has them too.
const (
	probeAudience = "podtoken.dev/guard-probe"
	probeSeconds  = 600
	// guardRevision is the least that the guard must say of itself when it denies the probe. The text of earlier ones lets
	// requests through whose grant was withdrawn while they were on their way.
	guardRevision = 2
	// probeRole has no rules and not the name of a grant, which only the controller's own guard minds.
	probeRole = "podtoken-controller-guard-probe"
)

const (
	// probeLimit bounds one API server's two answers, and the reading of their addresses.
	probeLimit = 5 * time.Second
	// dialLimit is short: addresses that a network policy closes must not delay the first grant.
	dialLimit = time.Second
	// maxAnswerBytes is more than a Status has, or an EndpointSlice of a thousand addresses.
	maxAnswerBytes = 1 << 20
	maxServers     = 64
	maxReasonBytes = 300
)

// answer of an API server to a request that a policy must deny: a closed set.
type answer string

const (
	answerDenied   answer = "Denied"   // by that policy
	answerOutdated answer = "Outdated" // by an earlier text of that policy
	answerAllowed  answer = "Allowed"
	answerUnknown  answer = "Unknown"
)

// verdict is what one API server has shown about one policy.
type verdict struct {
	policy string
	answer answer
	// reason is why the answer is unknown, and what to do.
	reason string
}

// server is an API server and its verdicts: on the guard, and on the controller's own guard.
type server struct {
	address string
	// service tells that it is the one to which the address of the Service leads. It must answer; another one may be out of reach.
	service  bool
	verdicts []verdict
}

// states of API servers: a closed set, used as a metric label.
const (
	stateEnforcing    = "Enforcing"
	stateNotEnforcing = "NotEnforcing"
	stateUnknown      = "Unknown"
)

func (s server) state() string {
	state := stateEnforcing
	for _, v := range s.verdicts {
		switch v.answer {
		case answerAllowed, answerOutdated:
			return stateNotEnforcing
		case answerUnknown:
			state = stateUnknown
		case answerDenied:
		}
	}
	return state
}

// unknown returns the first reason for which the state is unknown.
func (s server) unknown() string {
	for _, v := range s.verdicts {
		if v.answer == answerUnknown {
			return v.reason
		}
	}
	return ""
}

// prober asks API servers for what the guards must deny, as dry runs and with the controller's own credential.
//
// An API server without the guard answers the first request with a real token, although it is a dry run: of an audience
// that nothing accepts, for ten minutes. Its body is never read.
type prober struct {
	cluster                *rest.Config
	self                   func() types.NamespacedName
	guard, controllerGuard string
}

// probe asks each API server that it can find. The first one is that of the Service.
func (p *prober) probe(ctx context.Context) []server {
	ctx, cancel := context.WithTimeout(ctx, 2*probeLimit)
	defer cancel()
	base, client, err := p.client()
	if err != nil {
		return []server{{service: true, verdicts: p.unknown("the client configuration cannot be used: " + err.Error())}}
	}
	servers := []server{{address: base.Host, service: true}}
	addresses, err := addresses(ctx, client, base)
	if err != nil {
		servers = append(servers, server{address: "others", verdicts: p.unknown(fmt.Sprintf(
			"EndpointSlice %q in namespace %q cannot be read: %s", kubernetesService, metav1.NamespaceDefault, describe(err)))})
	}
	for _, address := range addresses {
		servers = append(servers, server{address: address})
	}
	var background sync.WaitGroup
	for i := range servers {
		if s := &servers[i]; s.verdicts == nil {
			background.Go(func() { s.verdicts = p.ask(ctx, client, base, s.address) })
		}
	}
	background.Wait()
	return servers
}

func (p *prober) unknown(reason string) []verdict {
	return []verdict{{p.guard, answerUnknown, reason}, {p.controllerGuard, answerUnknown, reason}}
}

// client returns where the API server is and a client that makes a connection for each request: so it comes to another
// API server from time to time where they share an address. It is made for each round, because credentials and CA change.
func (p *prober) client() (*url.URL, *http.Client, error) {
	base, _, err := rest.DefaultServerUrlFor(p.cluster)
	if err != nil {
		return nil, nil, err
	}
	config := rest.CopyConfig(p.cluster)
	if config.ServerName == "" {
		// The certificate of each API server is for the address of the Service, or clients in Pods could not use it.
		config.ServerName = base.Hostname()
	}
	encryption, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, nil, err
	}
	proxy := config.Proxy
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	transport, err := rest.HTTPWrappersForConfig(config, &http.Transport{
		Proxy: proxy, TLSClientConfig: encryption, DisableKeepAlives: true,
		DialContext:         (&net.Dialer{Timeout: dialLimit}).DialContext,
		TLSHandshakeTimeout: probeLimit,
	})
	if err != nil {
		return nil, nil, err
	}
	return base, &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // The credential goes nowhere else.
	}}, nil
}

// kubernetesService is the Service of the API servers, and its EndpointSlice, in namespace default.
const kubernetesService = "kubernetes"

// addresses returns those of the API servers, sorted.
func addresses(ctx context.Context, client *http.Client, base *url.URL) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	path := base.JoinPath("apis/discovery.k8s.io/v1/namespaces", metav1.NamespaceDefault, "endpointslices", kubernetesService)
	code, body, err := send(ctx, client, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	if code != http.StatusOK {
		return nil, errors.New(statusText(code, body))
	}
	var slice discoveryv1.EndpointSlice
	if err := json.Unmarshal(body, &slice); err != nil {
		return nil, err
	}
	var list []string
	for _, port := range slice.Ports {
		if port.Port == nil {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			for _, address := range endpoint.Addresses {
				list = append(list, net.JoinHostPort(address, strconv.Itoa(int(*port.Port))))
			}
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	return list[:min(len(list), maxServers)], nil
}

// ask sends both requests to one API server.
func (p *prober) ask(ctx context.Context, client *http.Client, base *url.URL, address string) []verdict {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	self := p.self()
	if self.Name == "" {
		return p.unknown("the token of --identity-token does not name the ServiceAccount that it is for")
	}
	seconds := int64(probeSeconds)
	server := *base
	server.Host = address
	verdicts := make([]verdict, 0, 2)
	for _, one := range []struct {
		policy   string
		revision int
		path     []string
		body     any
	}{
		{p.guard, guardRevision, []string{"api/v1/namespaces", self.Namespace, "serviceaccounts", self.Name, "token"}, authenticationv1.TokenRequest{
			TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
			Spec:     authenticationv1.TokenRequestSpec{Audiences: []string{probeAudience}, ExpirationSeconds: &seconds},
		}},
		{p.controllerGuard, 0, []string{"apis/rbac.authorization.k8s.io/v1/namespaces", self.Namespace, "roles"}, rbacv1.Role{
			TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"},
			ObjectMeta: metav1.ObjectMeta{Name: probeRole, Namespace: self.Namespace},
		}},
	} {
		where := server.JoinPath(one.path...)
		where.RawQuery = url.Values{"dryRun": {metav1.DryRunAll}, "fieldManager": {string(fieldManager)}}.Encode()
		code, body, err := send(ctx, client, http.MethodPost, where, one.body)
		v := verdict{policy: one.policy, answer: answerUnknown}
		if err != nil {
			v.reason = describe(err)
		} else {
			v.answer, v.reason = judgeAnswer(code, body, one.policy, one.revision)
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// send returns the code of the answer, and its body unless that is of a request that changes something and was allowed.
func send(ctx context.Context, client *http.Client, method string, where *url.URL, object any) (int, []byte, error) {
	var body io.Reader = http.NoBody
	if object != nil {
		data, err := json.Marshal(object)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, where.String(), body)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if method != http.MethodGet && response.StatusCode < http.StatusBadRequest {
		return response.StatusCode, nil, nil // It has a token in it.
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	return response.StatusCode, content, err
}

// denial is how kube-apiserver begins the message of a denial by a ValidatingAdmissionPolicy, whatever reason and code the policy gives.
var denial = regexp.MustCompile(`^\S+ "[^"]*" is forbidden: ValidatingAdmissionPolicy '([^']+)' `)

// revision is what the guard's denial of the probe says (charts/podtoken/templates/_guard.tpl).
var revision = regexp.MustCompile(`podtoken: guard revision (\d{1,9}) is enforced`)

// authorization is how it begins the message when no authorizer allows the request.
var authorization = regexp.MustCompile(`^\S+( "[^"]*")? is forbidden: User "`)

// judgeAnswer reports whether the policy denied the request, with a text that is of the least revision, if it has any.
func judgeAnswer(code int, body []byte, policy string, least int) (answer, string) {
	if code >= http.StatusOK && code < http.StatusMultipleChoices {
		return answerAllowed, ""
	}
	text := statusText(code, body)
	if code < http.StatusBadRequest || code >= http.StatusInternalServerError {
		return answerUnknown, text
	}
	var status metav1.Status
	_ = json.Unmarshal(body, &status) // What is no Status has no message.
	if by := denial.FindStringSubmatch(status.Message); by != nil {
		if by[1] == policy {
			return judgeRevision(status.Message, least)
		}
		return answerUnknown, fmt.Sprintf("ValidatingAdmissionPolicy %q denied the request first: run \"helm upgrade\" if it is podtoken's, else exempt the controller from it", by[1])
	}
	if authorization.MatchString(status.Message) {
		return answerUnknown, "the controller is not allowed to send the request: run \"helm upgrade\" to restore its ClusterRole; " + cut(status.Message, maxReasonBytes)
	}
	return answerUnknown, text
}

// judgeRevision reports whether a denial is that of the text that is needed.
func judgeRevision(message string, least int) (answer, string) {
	enforced := 0
	if match := revision.FindStringSubmatch(message); match != nil {
		enforced, _ = strconv.Atoi(match[1])
	}
	if enforced < least {
		return answerOutdated, fmt.Sprintf("it enforces revision %d of the guard, and %d is needed: upgrade the guard, on the API servers' disks if it is static", enforced, least)
	}
	return answerDenied, ""
}

// statusText is what an answer without a token says.
func statusText(code int, body []byte) string {
	var status metav1.Status
	if err := json.Unmarshal(body, &status); err != nil || status.Message == "" {
		return fmt.Sprintf("the answer is HTTP %d", code)
	}
	return fmt.Sprintf("the answer is HTTP %d: %s", code, cut(status.Message, maxReasonBytes))
}

// describe leaves out the URL, which the text around it names, and local ports, which differ each time.
func describe(err error) string {
	if one, ok := errors.AsType[*url.Error](err); ok {
		err = one.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return cut(err.Error(), maxReasonBytes)
}
