package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	startLimit  = 2 * time.Minute // for one component; it takes seconds, unless the machine is very busy
	pollEvery   = 50 * time.Millisecond
	shownOfLogs = 15 // lines
)

// boot starts everything at the moment at which it can do its work. What waits for the processor and what waits for
// another component overlap.
func (c *Cluster) boot(ctx context.Context) error {
	if err := c.listen(ctx); err != nil {
		return err
	}
	if err := c.writePKI(); err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}
	if err := c.addNodes(); err != nil {
		return err
	}
	if err := c.writeConfigs(); err != nil {
		return fmt.Errorf("writing configuration files: %w", err)
	}
	if err := c.startAll(Relay, Etcd, APIServer); err != nil {
		return err
	}
	if err := c.startOnNodes(Containerd); err != nil {
		return err
	}
	var err error
	if c.restConfig, err = loadRESTConfig(c.kubeconfig); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(c.restConfig)
	if err != nil {
		return err
	}

	images := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for _, n := range c.nodes() {
			if err := c.waitFor(ctx, n.component(Containerd), c.containerdAnswers(n)); err != nil {
				return err
			}
		}
		if err := c.importTestImages(ctx); err != nil {
			return err
		}
		close(images)
		c.progress.logf("containerd has the test images")
		return nil
	})
	if c.options.ProductImages {
		group.Go(func() error {
			if err := c.buildProductImages(ctx, c.options.RepoRoot); err != nil {
				return err
			}
			select {
			case <-images:
			case <-ctx.Done():
				return ctx.Err()
			}
			return c.importProductImages(ctx, c.options.RepoRoot)
		})
	}
	group.Go(func() error { return c.startControlPlane(ctx, client, images) })
	return group.Wait()
}

// startControlPlane waits for the API server, and starts what needs it.
func (c *Cluster) startControlPlane(ctx context.Context, client *kubernetes.Clientset, images <-chan struct{}) error {
	if err := c.waitFor(ctx, APIServer, apiServerReady(client)); err != nil {
		return err
	}
	c.progress.logf("the API server is ready")
	if err := c.startAll(ControllerManager, Scheduler); err != nil {
		return err
	}
	select {
	case <-images: // the kubelet ends when containerd's socket is not there, and then wants the pause image
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.startOnNodes(Kubelet, Proxy); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	if !c.options.NoCertManager {
		group.Go(func() error {
			if err := c.applyCertManagerCRDs(ctx); err != nil {
				return fmt.Errorf("installing the CustomResourceDefinitions of cert-manager: %w", err)
			}
			return c.startAll(CertManager)
		})
	}
	for _, n := range c.nodes() {
		group.Go(func() error {
			if err := c.waitFor(ctx, n.component(Kubelet), nodeReady(client, n)); err != nil {
				return err
			}
			c.progress.logf("%s is ready", n.name())
			if c.options.NetworkPolicies {
				return c.startAll(n.component(KubeRouter)) // it ends when its node is not there
			}
			return nil
		})
	}
	group.Go(func() error {
		// Pods need the default ServiceAccount, which the controller manager makes.
		return c.waitFor(ctx, ControllerManager, func(ctx context.Context) error {
			_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
			return err
		})
	})
	return group.Wait()
}

// listen reserves a port on the host's loopback, which the relay then serves.
func (c *Cluster) listen(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	_, c.port, err = net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return err
	}
	c.listener, err = listener.(*net.TCPListener).File()
	return err
}

func (c *Cluster) startAll(names ...string) error {
	for _, name := range names {
		command, err := c.command(name)
		if err != nil {
			return err
		}
		if err := c.sandbox.Start(command); err != nil {
			return err
		}
	}
	return nil
}

// startOnNodes starts the components of these names on each node.
func (c *Cluster) startOnNodes(names ...string) error {
	for _, n := range c.nodes() {
		for _, name := range names {
			if err := c.startAll(n.component(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// waitFor calls a check until it is content. It gives up when the component that has to do the work ends, and always
// says where the log of that component is.
func (c *Cluster) waitFor(ctx context.Context, component string, check func(context.Context) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not ready after %s", startLimit))
	defer cancel()
	for {
		err := check(limited)
		if err == nil {
			return nil
		}
		if !c.sandbox.Running(component) {
			return c.componentError(component, errors.New("it has ended"))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx) // another part of the boot has failed, or the caller has given up
		case <-limited.Done():
			return c.componentError(component, fmt.Errorf("%w; the last answer: %w", context.Cause(limited), err))
		case <-time.After(pollEvery):
		}
	}
}

func (c *Cluster) componentError(component string, err error) error {
	return fmt.Errorf("%s does not work: %w\nthe end of %s:\n%s", component, err, c.sandbox.LogPath(component), c.sandbox.LogTail(component, shownOfLogs))
}

func (c *Cluster) containerdAnswers(n node) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := os.Stat(c.containerdSocket(n)); err != nil {
			return err
		}
		_, err := c.ctr(ctx, n, "version")
		return err
	}
}

func apiServerReady(client *kubernetes.Clientset) func(context.Context) error {
	return func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}
}

func nodeReady(client *kubernetes.Clientset, n node) func(context.Context) error {
	return func(ctx context.Context) error {
		node, err := client.CoreV1().Nodes().Get(ctx, n.name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("%s is not ready yet", n.name())
	}
}

// StopComponent ends one component, as a crash would do without grace, and as a restart would do with some.
func (c *Cluster) StopComponent(name string, grace time.Duration) error {
	if c.sandbox == nil {
		return errNotOurs
	}
	return c.sandbox.Stop(name, grace)
}

// StartComponent starts a component that was stopped, and does not wait until it is ready.
func (c *Cluster) StartComponent(name string) error {
	if c.sandbox == nil {
		return errNotOurs
	}
	return c.startAll(name)
}

var errNotOurs = fmt.Errorf("this cluster was not booted by these tests (%s is set), so its components cannot be stopped or entered", EnvRegistry)
