package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/podtoken/podtoken/e2e/cluster"
)

//go:embed applications.yaml
var applications string

var (
	policyOfAll = []string{"--set-json", `policy.allow=[{"namespaces":["*"],"serviceAccounts":["*"],"audiences":["*"]}]`}
	// policyOfSome allows everything but in the namespace legacy.
	policyOfSome = []string{"--set-json", `policy.allow=[{"namespaces":["shop","reports"],"serviceAccounts":["*"],"audiences":["*"]}]`}
)

// scenario is what happens to the installation.
type scenario struct {
	cluster *cluster.Cluster
	client  kubernetes.Interface
	log     io.Writer
	// image holds ./cmd/probe.
	image string
}

// step is done at a time after the beginning.
type step struct {
	at time.Duration
	// event is what people read beside the picture; empty for what they need not know.
	event string
	do    func(s *scenario, ctx context.Context) error
}

// length is how long everything takes.
const length = 13 * time.Minute

var steps = []step{
	{at: 20 * time.Second, event: "five pods are created", do: (*scenario).createPods},
	{at: 80 * time.Second, event: "pods with wrong annotations are refused", do: (*scenario).createWrongPods},
	{at: 130 * time.Second, event: "a pod of the webhook is deleted", do: func(s *scenario, ctx context.Context) error { return s.deletePod(ctx, "webhook") }},
	{at: 180 * time.Second, event: "the policy is narrowed: not for the namespace legacy", do: func(s *scenario, ctx context.Context) error {
		return s.cluster.InstallChart(ctx, policyOfSome...)
	}},
	{at: 270 * time.Second, event: "somebody deletes a token's file", do: (*scenario).deleteFile},
	{at: 315 * time.Second, event: "a new pod in legacy is refused", do: (*scenario).createPodNotAllowed},
	{at: 330 * time.Second, event: "the API server crashes …", do: func(s *scenario, _ context.Context) error {
		return s.cluster.StopComponent(cluster.APIServer, 0)
	}},
	{at: 450 * time.Second, event: "… and is started again", do: func(s *scenario, ctx context.Context) error {
		if err := s.cluster.StartComponent(cluster.APIServer); err != nil {
			return err
		}
		return s.cluster.WaitForAPIServer(ctx)
	}},
	{at: 540 * time.Second, event: "the leading controller is deleted", do: (*scenario).deleteLeader},
	{at: 570 * time.Second, event: "somebody's Role is in the way of a new ServiceAccount's grant …", do: (*scenario).createPodWithoutGrant},
	{at: 610 * time.Second, event: "… and is deleted", do: (*scenario).unblock},
	{at: 700 * time.Second, event: "no webhook: annotated pods are refused …", do: (*scenario).createPodWithoutWebhook},
	{at: 730 * time.Second, event: "… until the webhook is back", do: func(s *scenario, ctx context.Context) error { return s.scale(ctx, "webhook", 2) }},
}

// play does every step at its time, and meanwhile asks the webhook all the time about pods that are not created.
func (s *scenario) play(ctx context.Context, tell func(event string)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	tell("") // the beginning
	go s.ask(ctx)
	for _, next := range steps {
		if err := until(ctx, begin.Add(next.at)); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(s.log, "%7s  %s\n", time.Since(begin).Round(time.Second), next.event)
		tell(next.event)
		if err := next.do(s, ctx); err != nil {
			return fmt.Errorf("at %s, %q: %w", next.at, next.event, err)
		}
	}
	return until(ctx, begin.Add(length))
}

func until(ctx context.Context, when time.Time) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(when)):
		return nil
	}
}

// ask makes one and a half reviews a second, by creations that are dry runs. Every fourth pod wants nothing, and is no review.
func (s *scenario) ask(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		annotations := map[string]string{"audience.vault": "vault"}
		if i%4 == 3 {
			annotations["inject"] = "false"
		}
		_, _ = s.create(ctx, "shop", "ask", "", annotations, true)
		_ = until(ctx, time.Now().Add(500*time.Millisecond))
	}
}

func (s *scenario) createPods(ctx context.Context) error {
	_, err := s.cluster.Kubectl(ctx, strings.NewReader(strings.ReplaceAll(applications, "IMAGE", s.image)), "apply", "--filename=-")
	if err == nil {
		_, err = s.create(ctx, "reports", "weekly", "", map[string]string{
			"audience.storage": "https://storage.example.com", "metrics-port": "9901",
		}, false)
	}
	return err
}
