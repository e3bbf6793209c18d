package grant

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/internal/servertest"
)

const (
	credential = "eyJhbGciOiJub25lIn0.credential.signature"
	loot       = "eyJhbGciOiJub25lIn0.loot.signature"
)

// apiServer answers both probes, and where the API servers are.
type apiServer struct {
	*httptest.Server
	mu sync.Mutex
	// answers by the resource: "serviceaccounts", "roles", "endpointslices".
	answers  map[string]func(http.ResponseWriter)
	requests []string
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{answers: map[string]func(http.ResponseWriter){
		"serviceaccounts": deniedBy("podtoken-guard", "serviceaccounts", http.StatusForbidden),
		"roles":           deniedBy("podtoken-controller-guard", "roles.rbac.authorization.k8s.io", http.StatusForbidden),
		"endpointslices":  says(http.StatusNotFound, `endpointslices.discovery.k8s.io "kubernetes" not found`),
	}}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests = append(s.requests, r.Method+" "+r.URL.String()+" "+r.Header.Get("Authorization")+" "+string(body))
		for resource, answer := range s.answers {
			if slices.Contains(strings.Split(r.URL.Path, "/"), resource) {
				answer(w)
			}
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) port() int { return s.Listener.Addr().(*net.TCPAddr).Port }

// knows lets it tell where others are.
func (s *apiServer) knows(ports ...int) {
	var list []string
	for _, port := range ports {
		list = append(list, fmt.Sprintf(`{"name":"https-%d","port":%d}`, port, port))
	}
	s.answers["endpointslices"] = func(w http.ResponseWriter) {
		_, _ = fmt.Fprintf(w, `{"addressType":"IPv4","endpoints":[{"addresses":["127.0.0.1"]}],"ports":[%s]}`, strings.Join(list, ","))
	}
}

func says(code int, message string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(code)
		data, _ := json.Marshal(map[string]any{"kind": "Status", "code": code, "message": message})
		_, _ = w.Write(data)
	}
}

func deniedBy(policy, resource string, code int) func(http.ResponseWriter) {
	return says(code, fmt.Sprintf("%s \"podtoken-controller\" is forbidden: ValidatingAdmissionPolicy '%s' with binding '%[2]s' denied request: podtoken: guard revision 2 is enforced", resource, policy))
}

func (s *apiServer) prober() *prober {
	return &prober{
		cluster: &rest.Config{Host: s.URL, BearerToken: credential, TLSClientConfig: rest.TLSClientConfig{CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}},
		self: func() types.NamespacedName {
			return types.NamespacedName{Namespace: "podtoken-system", Name: "podtoken-controller"}
		},
		guard: "podtoken-guard", controllerGuard: "podtoken-controller-guard",
	}
}

// The two requests are what the controller's own guard compares with, and go to each API server once.
func TestProbe(t *testing.T) {
	first, second := newAPIServer(t), newAPIServer(t)
	closed := servertest.FreePort(t)
	first.knows(first.port(), second.port(), closed)
	servers := first.prober().probe(t.Context())
	states := map[string]string{}
	for _, s := range servers {
		states[fmt.Sprint(s.address, " ", s.service)] = s.state()
	}
	address := func(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
	if diff := cmp.Diff(map[string]string{
		address(first.port()) + " true": stateEnforcing, address(first.port()) + " false": stateEnforcing,
		address(second.port()) + " false": stateEnforcing, address(closed) + " false": stateUnknown,
	}, states); diff != "" {
		t.Errorf("API servers (-want +got):\n%s\n%+v", diff, servers)
	}
	if problem := problemOfServers(servers); problem != "" {
		t.Errorf("problem %q", problem)
	}
	slices.Sort(second.requests)
	if diff := cmp.Diff([]string{
		"POST /api/v1/namespaces/podtoken-system/serviceaccounts/podtoken-controller/token?dryRun=All&fieldManager=podtoken-controller Bearer " + credential +
			` {"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","metadata":{},"spec":{"audiences":["podtoken.dev/guard-probe"],"expirationSeconds":600,"boundObjectRef":null},"status":{"token":"","expirationTimestamp":null}}`,
		"POST /apis/rbac.authorization.k8s.io/v1/namespaces/podtoken-system/roles?dryRun=All&fieldManager=podtoken-controller Bearer " + credential +
			` {"kind":"Role","apiVersion":"rbac.authorization.k8s.io/v1","metadata":{"name":"podtoken-controller-guard-probe","namespace":"podtoken-system"},"rules":null}`,
	}, second.requests); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	// One that does not enforce is found wherever it is.
	second.answers["serviceaccounts"] = says(http.StatusCreated, loot)
	if problem := problemOfServers(first.prober().probe(t.Context())); !strings.HasPrefix(problem, "API server "+address(second.port())+" does not enforce") {
		t.Errorf("problem %q", problem)
	}
}

// Each answer but the denial of the right policy proves nothing, and no text holds a token.
func TestAnswersToProbes(t *testing.T) {
	for name, test := range map[string]struct {
		resource string
		answer   func(http.ResponseWriter)
		want     answer
		reason   string
	}{
		"a denial with another code": {"serviceaccounts", deniedBy("podtoken-guard", "serviceaccounts", http.StatusUnprocessableEntity), answerDenied, ""},
		"a token":                    {"serviceaccounts", says(http.StatusCreated, loot), answerAllowed, ""},
		"the guard before revisions": {"serviceaccounts", says(http.StatusForbidden, `serviceaccounts "x" is forbidden: ValidatingAdmissionPolicy 'podtoken-guard' with binding 'podtoken-guard' denied request: podtoken: no`), answerOutdated, "it enforces revision 0 of the guard, and 2 is needed"},
		"an earlier revision":        {"serviceaccounts", says(http.StatusForbidden, `serviceaccounts "x" is forbidden: ValidatingAdmissionPolicy 'podtoken-guard' with binding 'podtoken-guard' denied request: podtoken: guard revision 1 is enforced`), answerOutdated, "it enforces revision 1"},
		"a later revision":           {"serviceaccounts", says(http.StatusForbidden, `serviceaccounts "x" is forbidden: ValidatingAdmissionPolicy 'podtoken-guard' with binding 'podtoken-guard' denied request: podtoken: guard revision 10 is enforced`), answerDenied, ""},
		"a Role":                     {"roles", says(http.StatusCreated, "a Role"), answerAllowed, ""},
		"another policy": {"serviceaccounts", deniedBy("podtoken-controller-guard", "serviceaccounts", http.StatusForbidden), answerUnknown,
			`ValidatingAdmissionPolicy "podtoken-controller-guard" denied the request first: run "helm upgrade" if it is podtoken's, else exempt the controller from it`},
		"another policy whose message names the guard": {"serviceaccounts", says(http.StatusForbidden, `serviceaccounts "podtoken-controller" is forbidden: `+
			`ValidatingAdmissionPolicy 'x' with binding 'x' denied request: is forbidden: ValidatingAdmissionPolicy 'podtoken-guard' denied`), answerUnknown, `ValidatingAdmissionPolicy "x" denied`},
		"a webhook": {"serviceaccounts", says(http.StatusForbidden, `admission webhook "x" denied the request: ValidatingAdmissionPolicy 'podtoken-guard' denied`), answerUnknown, "the answer is HTTP 403: admission webhook"},
		"RBAC": {"serviceaccounts", says(http.StatusForbidden, `serviceaccounts "podtoken-controller" is forbidden: User "x" cannot create resource "serviceaccounts/token" in API group "" in the namespace "podtoken-system"`),
			answerUnknown, `the controller is not allowed to send the request: run "helm upgrade" to restore its ClusterRole; serviceaccounts`},
		"RBAC without a name":    {"roles", says(http.StatusForbidden, `roles.rbac.authorization.k8s.io is forbidden: User "x" cannot create resource "roles"`), answerUnknown, "the controller is not allowed to send the request"},
		"no credential":          {"serviceaccounts", says(http.StatusUnauthorized, "Unauthorized"), answerUnknown, "the answer is HTTP 401: Unauthorized"},
		"too many requests":      {"serviceaccounts", says(http.StatusTooManyRequests, "Too many requests"), answerUnknown, "the answer is HTTP 429"},
		"an error of the server": {"roles", says(http.StatusInternalServerError, `x "y" is forbidden: ValidatingAdmissionPolicy 'podtoken-controller-guard' `), answerUnknown, "the answer is HTTP 500"},
		"no Status":              {"roles", func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden); _, _ = io.WriteString(w, "<html>") }, answerUnknown, "the answer is HTTP 403"},
		"a redirect": {"serviceaccounts", func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://127.0.0.1:1/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, answerUnknown, "the answer is HTTP 307"},
		"a connection that ends": {"serviceaccounts", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, answerUnknown, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(t)
			s.answers[test.resource] = test.answer
			servers := s.prober().probe(t.Context())
			v := servers[0].verdicts[0]
			if test.resource == "roles" {
				v = servers[0].verdicts[1]
			}
			if v.answer != test.want || !strings.HasPrefix(v.reason, test.reason) {
				t.Errorf("answer %s %q, want %s %q", v.answer, v.reason, test.want, test.reason)
			}
			if text := fmt.Sprintf("%+v %s", servers, problemOfServers(servers)); strings.Contains(text, "eyJ") {
				t.Errorf("a token in %s", text)
			}
			if (problemOfServers(servers) == "") != (test.want == answerDenied) {
				t.Errorf("problem %q after %s", problemOfServers(servers), v.answer)
			}
		})
	}
}

// A server with another certificate gets no credential, nor is one sent for an unknown ServiceAccount.
func TestProbeOfStrangers(t *testing.T) {
	s := newAPIServer(t)
	p := s.prober()
	p.cluster.CAData = nil
	if servers := p.probe(t.Context()); servers[0].state() != stateUnknown || len(s.requests) != 0 {
		t.Errorf("%+v after the requests %q to a server of an unknown CA", servers, s.requests)
	}
	p = s.prober()
	p.self = func() types.NamespacedName { return types.NamespacedName{} }
	if servers := p.probe(t.Context()); !strings.Contains(problemOfServers(servers), "--identity-token") {
		t.Errorf("%+v", servers)
	}
}
