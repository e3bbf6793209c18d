package e2e

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// half is the number of requests that a Pod holds open: more than the seats of podtoken's level, fewer than those of others.
const half = 60

// With flowSchema.enabled a Pod that holds token requests open takes seats of podtoken's own priority level, and none of those that
// controllers, scheduler and other ServiceAccounts use. The chart's objects are those of the test, for the ServiceAccounts of its namespace alone:
// the others' requests would wait as well. Serial: without the FlowSchema they do.
func TestFlowSchemaHasALevelOfItsOwn(t *testing.T) {
	n := newNamespace(t, nil)
	n.create("pod", annotations("audience", audienceDefault), podSpec())
	n.ready("pod")
	credential := n.token("pod", "app", "/var/run/secrets/kubernetes.io/serviceaccount/token")

	// Without it they are at the level of all ServiceAccounts: the test's requests do take seats.
	release := n.hold(credential)
	eventually(t, pollShort, "half-sent requests have seats", func(ctx context.Context) (bool, error) {
		seats, err := n.seats(ctx)
		return seats["workload-low"] >= half/2, err
	})
	release()

	chart := n.root(t) + "/charts/podtoken"
	rendered, err := n.cluster.Helm(t.Context(), "template", cluster.Release, chart, "--set", "flowSchema.enabled=true", "--show-only", "templates/flowschema.yaml")
	must(t, err, "rendering the FlowSchema")
	const everybody = "name: system:serviceaccounts\n"
	if strings.Count(rendered, everybody) != 1 {
		t.Fatalf("the subject of the FlowSchema is not that of all ServiceAccounts:\n%s", rendered)
	}
	rendered = strings.Replace(rendered, everybody, "name: system:serviceaccounts:"+n.name+"\n", 1)
	_, err = n.cluster.Kubectl(t.Context(), strings.NewReader(rendered), "apply", "-f", "-")
	must(t, err, "applying FlowSchema and PriorityLevelConfiguration")
	t.Cleanup(func() {
		_, err := n.cluster.Kubectl(context.Background(), strings.NewReader(rendered), "delete", "-f", "-")
		must(t, err, "deleting FlowSchema and PriorityLevelConfiguration")
	})
	const level = "podtoken-tokens"
	refresh := func() error {
		_, err := n.exec("pod", api.ContainerName, api.SidecarBinary, api.CommandRefresh, "--timeout=20s")
		return err
	}
	eventually(t, time.Minute, "refreshes are of podtoken's level", func(ctx context.Context) (bool, error) {
		if err := refresh(); err != nil {
			return false, err
		}
		counts, err := n.byLevel(ctx, "apiserver_flowcontrol_dispatched_requests_total")
		return counts[level] > 0, err
	})

	release = n.hold(credential)
	var seats map[string]int
	eventually(t, pollShort, "half-sent requests have seats", func(ctx context.Context) (bool, error) {
		seats, err = n.seats(ctx)
		return seats[level] >= 10, err
	})
	t.Logf("%d half-sent requests: seats by level %v", half, seats)
	for _, other := range []string{"workload-low", "workload-high", "leader-election", "system", "node-high"} {
		if seats[other] >= half/3 {
			t.Errorf("%d seats of %s are taken", seats[other], other)
		}
	}
	n.create("plain", nil, podSpec())
	n.ready("plain") // by scheduler, controllers and kubelet
	release()
	must(t, refresh(), "refreshing afterwards")
}

// hold sends all but the body of token requests, as a Pod with the credential can. What it returns ends them.
func (n *testNamespace) hold(credential string) (release func()) {
	n.t.Helper()
	config := rest.AnonymousClientConfig(n.restConfig)
	config.BearerToken = credential
	httpClient, err := rest.HTTPClientFor(config)
	must(n.t, err, "making a client")
	target := strings.TrimSuffix(config.Host, "/") + "/api/v1/namespaces/" + n.name + "/serviceaccounts/" + serviceAccount + "/token"
	ctx, cancel := context.WithCancel(n.t.Context())
	var requests sync.WaitGroup
	for range half {
		requests.Go(func() {
			body, writer := io.Pipe() // its rest never comes
			defer func() { _ = writer.Close() }()
			go func() { _, _ = io.WriteString(writer, "{") }()
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, body)
			if err != nil {
				n.t.Error(err)
				return
			}
			request.Header.Set("Content-Type", "application/json")
			if answer, err := httpClient.Do(request); err == nil {
				_ = answer.Body.Close()
			}
		})
	}
	release = sync.OnceFunc(func() { cancel(); requests.Wait() })
	n.t.Cleanup(release)
	return release
}

// seats returns the seats that are taken, by priority level.
func (n *testNamespace) seats(ctx context.Context) (map[string]int, error) {
	return n.byLevel(ctx, "apiserver_flowcontrol_current_executing_seats")
}

var ofLevel = regexp.MustCompile(`^(\w+)\{.*priority_level="([^"]+)".*\} (\S+)$`)

// byLevel sums a metric of the API server.
func (n *testNamespace) byLevel(ctx context.Context, metric string) (map[string]int, error) {
	text, err := n.client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	sums := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if parts := ofLevel.FindStringSubmatch(strings.TrimSpace(line)); parts != nil && parts[1] == metric {
			value, err := strconv.ParseFloat(parts[3], 64)
			if err != nil {
				return nil, err
			}
			sums[parts[2]] += int(value)
		}
	}
	return sums, nil
}
