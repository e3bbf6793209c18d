package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podtoken/podtoken/e2e/cluster"
	"github.com/podtoken/podtoken/pkg/api"
)

// The pod of manifests/examples/quickstart.yaml.
const (
	namespace = "podtoken-examples"
	pod       = "quickstart"
)

type tokenFile struct{ name, audience string }

var tokens = []tokenFile{{"vault", "vault"}, {"billing", "https://billing.example.com"}}

type demo struct {
	cluster *cluster.Cluster
	client  kubernetes.Interface
	out     io.Writer
}

// claims are what the demo shows of a token.
type claims struct {
	Subject    string   `json:"sub"`
	Audiences  []string `json:"aud"`
	IssuedAt   int64    `json:"iat"`
	Expires    int64    `json:"exp"`
	ID         string   `json:"jti"`
	Kubernetes struct {
		Pod struct {
			Name string `json:"name"`
			UID  string `json:"uid"`
		} `json:"pod"`
	} `json:"kubernetes.io"`
}

func (d *demo) printf(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format, args...) }

// read returns a token as the application's container reads it.
func (d *demo) read(ctx context.Context, name string) (string, claims, error) {
	var c claims
	token, err := d.cluster.Kubectl(ctx, nil, "--namespace", namespace, "exec", pod, "--container", "app", "--", "cat", api.DefaultMountPath+"/"+name)
	if err != nil {
		return "", c, err
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", c, fmt.Errorf("the file %q holds no token (%d bytes)", name, len(token))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", c, fmt.Errorf("decoding the token %q: %w", name, err)
	}
	return token, c, json.Unmarshal(payload, &c)
}

// describe prints a token's claims, and what the API server says to somebody who got the token.
func (d *demo) describe(ctx context.Context, file tokenFile) (claims, error) {
	token, c, err := d.read(ctx, file.name)
	if err != nil {
		return c, err
	}
	d.printf("\n  %s/%s\n", api.DefaultMountPath, file.name)
	d.printf("    audiences    %s\n", strings.Join(c.Audiences, ", "))
	d.printf("    subject      %s\n", c.Subject)
	d.printf("    bound to     pod %s, uid %s\n", c.Kubernetes.Pod.Name, c.Kubernetes.Pod.UID)
	d.printf("    expires      %s, %s after it was issued\n", clock(c.Expires), time.Duration(c.Expires-c.IssuedAt)*time.Second)
	for _, audience := range []string{file.audience, "somebody-else"} {
		verdict, err := d.review(ctx, token, audience)
		if err != nil {
			return c, err
		}
		d.printf("    TokenReview  for %s: %s\n", audience, verdict)
	}
	return c, nil
}

func (d *demo) review(ctx context.Context, token, audience string) (string, error) {
	answer, err := d.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("reviewing a token: %w", err)
	}
	if !answer.Status.Authenticated {
		return "refused", nil
	}
	return fmt.Sprintf("authenticated as %s, pod %s", answer.Status.User.Username,
		strings.Join(answer.Status.User.Extra["authentication.kubernetes.io/pod-name"], "")), nil
}

// refresh shows that the files are replaced. The tokens of the example live for the minimum of ten minutes and are
// replaced after 20 % of that; nobody should have to watch for two minutes, so the sidecar is asked to do it now.
func (d *demo) refresh(ctx context.Context, before map[string]claims) error {
	report, err := d.sidecar(ctx, api.CommandCheck)
	if err != nil {
		return err
	}
	d.printf("\nThe sidecar's schedule (`%s check` in its container):\n\n%s", api.SidecarBinary, indent(report))
	if _, err := d.sidecar(ctx, api.CommandRefresh); err != nil {
		return err
	}
	d.printf("\nInstead of waiting, it was asked to refresh now (`%s refresh`):\n\n", api.SidecarBinary)
	for _, file := range tokens {
		_, after, err := d.read(ctx, file.name)
		if err != nil {
			return err
		}
		old := before[file.name]
		if after.ID == old.ID || after.Expires <= old.Expires {
			return fmt.Errorf("the token %q was not replaced: it is %s still, until %s", file.name, after.ID, clock(after.Expires))
		}
		d.printf("    %-8s %s until %s\n", file.name, old.ID, clock(old.Expires))
		d.printf("          -> %s until %s\n", after.ID, clock(after.Expires))
	}
	return nil
}

func (d *demo) sidecar(ctx context.Context, command string) (string, error) {
	return d.cluster.Kubectl(ctx, nil, "--namespace", namespace, "exec", pod, "--container", api.ContainerName, "--", api.SidecarBinary, command)
}

func clock(unix int64) string { return time.Unix(unix, 0).Local().Format(time.TimeOnly) }

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + line)
	}
	return b.String()
}
