package cluster

import (
	"context"
	"fmt"
	"os"
	"slices"

	"k8s.io/client-go/kubernetes"

	"github.com/podtoken/podtoken/e2e/cluster/internal/pki"
)

// RotateSigningKey has the API server sign ServiceAccount tokens with a new key, which takes a restart. With keepOld it goes
// on to accept what the old key signed, as a careful administrator has it; without, every token of the cluster is worthless
// from then on. It returns when the API server answers again.
func (c *Cluster) RotateSigningKey(ctx context.Context, keepOld bool) error {
	if c.sandbox == nil {
		return errNotOurs
	}
	private, public, err := pki.NewSigningKey()
	if err != nil {
		return fmt.Errorf("making a signing key: %w", err)
	}
	accepted := public
	if keepOld {
		old, err := os.ReadFile(c.sandbox.Path("pki", "sa.pub"))
		if err != nil {
			return err
		}
		accepted = slices.Concat(public, old)
	}
	for name, content := range map[string][]byte{"sa.key": private, "sa.pub": accepted} {
		if err := os.WriteFile(c.sandbox.Path("pki", name), content, 0o600); err != nil {
			return err
		}
	}
	if err := c.StopComponent(APIServer, 0); err != nil {
		return err
	}
	if err := c.StartComponent(APIServer); err != nil {
		return err
	}
	return c.WaitForAPIServer(ctx)
}

// WaitForAPIServer returns when the API server answers, after StartComponent.
func (c *Cluster) WaitForAPIServer(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.restConfig)
	if err != nil {
		return err
	}
	return c.waitFor(ctx, APIServer, apiServerReady(client))
}
