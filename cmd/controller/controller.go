package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/podtoken/podtoken/internal/config"
	"github.com/podtoken/podtoken/internal/grant"
	"github.com/podtoken/podtoken/internal/httpserver"
	"github.com/podtoken/podtoken/internal/memorylimit"
	"github.com/podtoken/podtoken/internal/policy"
	"github.com/podtoken/podtoken/internal/servingcert"
	"github.com/podtoken/podtoken/internal/version"
)

// listenerHTTP is the name of the listener in metrics, after its flag.
const listenerHTTP = "http"

// controller is the whole process: the manager with its caches, the plain HTTP server beside it, and what they read from
// files.
type controller struct {
	options  *options
	logger   *slog.Logger
	registry *prometheus.Registry
	policy   *config.Store[policy.Policy]
	identity *config.Identity
	manager  manager.Manager
}

// newController wires everything and starts nothing.
func newController(o *options, stderr io.Writer) (*controller, error) {
	c := &controller{options: o, logger: newLogger(o.logLevel, stderr), registry: newRegistry()}
	c.policy = config.NewPolicy(o.policy, c.registry, c.logger)
	c.identity = config.NewIdentity(o.identityToken, c.registry, c.logger)

	cluster, err := clusterConfig(o.kubeconfig)
	if err != nil {
		return nil, err
	}
	caches := grant.CacheOptions(o.guard, c.policy.Current)
	if o.servingSecret != "" {
		c.serving().AddToCache(&caches)
	}
	c.manager, err = manager.New(cluster, manager.Options{
		Scheme:         grant.NewScheme(),
		MapperProvider: newMapper,
		Cache:          caches,
		Logger:         crlog.Log,
		// Metrics and probes have a server of their own, which answers before there is a manager.
		Metrics:                 metricsserver.Options{BindAddress: "0"},
		LeaderElection:          true,
		LeaderElectionNamespace: o.leaderElectionNamespace,
		LeaderElectionID:        o.leaderElectionID,
		// The process ends right after the manager, so that another replica need not wait for the Lease to run out.
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	c.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "podtoken_controller_leading",
		Help: "1 in the replica that works, 0 in those that wait for its Lease.",
	}, c.leading))
	return c, nil
}

// newMapper knows the resources of all that is read and written.
func newMapper(cluster *rest.Config, client *http.Client) (meta.RESTMapper, error) {
	mapper, err := grant.NewMapper(cluster, client)
	return meta.MultiRESTMapper{mapper, servingcert.NewMapper()}, err
}

// serving is what --serving-certificate-secret and the flags beside it say.
func (c *controller) serving() servingcert.Config {
	return servingcert.Config{
		Secret:       types.NamespacedName{Namespace: c.options.leaderElectionNamespace, Name: c.options.servingSecret},
		Registration: c.options.webhookConfiguration,
		DNSName:      c.options.servingName,
		Registry:     c.registry,
		Logger:       c.logger,
	}
}

// leading reports whether this replica has the Lease. One that loses it ends, so that it never goes back to 0.
func (c *controller) leading() float64 {
	select {
	case <-c.manager.Elected():
		return 1
	default:
		return 0
	}
}

// newLogger returns the log and makes controller-runtime and client-go write to it. Without a logger controller-runtime
// keeps every log call of the first 30 seconds in memory.
func newLogger(level string, stderr io.Writer) *slog.Logger {
	handler := slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: logLevels[level]})
	crlog.SetLogger(logr.FromSlogHandler(handler))
	klog.SetLogger(logr.FromSlogHandler(handler))
	return slog.New(handler)
}

// newRegistry returns a registry with the metrics of the process.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "podtoken_build_info",
		Help: "1, with the version of podtoken and of Go as labels.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(version.Version, runtime.Version()).Set(1)
	registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// Run works until ctx is done, then lets go of the Lease. An error is also that another replica has it.
func (c *controller) Run(ctx context.Context) error {
	memorylimit.Apply(c.logger)
	if err := c.policy.Load(); err != nil {
		return fmt.Errorf("loading the policy: %w", err)
	}
	if err := c.identity.Load(); err != nil {
		return fmt.Errorf("loading our own token: %w", err)
	}
	if err := grant.SetUp(ctx, c.manager, grant.Config{
		Policy:          c.policy.Current,
		Audiences:       c.identity.APIServerAudiences,
		PollInterval:    c.options.reloadInterval,
		RemovalDelay:    c.options.removalDelay,
		WithdrawalDelay: c.options.withdrawalDelay,
		Guard:           c.options.guard,
		ControllerGuard: c.options.controllerGuard,
		Self:            c.identity.ServiceAccount,
		Registry:        c.registry,
		Logger:          c.logger,
	}); err != nil {
		return fmt.Errorf("setting up the controller: %w", err)
	}
	if c.options.servingSecret != "" {
		if err := servingcert.SetUp(c.manager, c.serving()); err != nil {
			return fmt.Errorf("setting up the serving certificate: %w", err)
		}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.options.httpBindAddress)
	if err != nil {
		return fmt.Errorf("listening on --http-bind-address: %w", err)
	}

	running, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	background.Go(func() { c.policy.Watch(running, c.options.reloadInterval) })
	background.Go(func() { c.identity.Watch(running, c.options.reloadInterval) })

	connections := httpserver.NewMetrics(c.registry, listenerHTTP)
	plain := httpserver.NewServer(httpserver.Plain(c.plainHandler()), c.logger)
	failed := make(chan error, 1)
	background.Go(func() {
		failed <- httpserver.NewListener(listener, httpserver.Config{
			Name: listenerHTTP, Metrics: connections, Limits: httpserver.PlainLimits(), Logger: c.logger,
		}).Serve(plain)
	})
	defer func() { _ = plain.Close() }()

	stopped := make(chan error, 1)
	background.Go(func() { stopped <- c.manager.Start(running) })
	c.logger.Info("Running", "version", version.Version, "httpAddress", c.options.httpBindAddress, "guard", c.options.guard,
		"removalDelay", c.options.removalDelay.String())

	select {
	case err := <-failed:
		return fmt.Errorf("serving on --http-bind-address: %w", err)
	case err := <-stopped:
		if err != nil {
			return fmt.Errorf("running the manager: %w", err)
		}
	}
	c.logger.Info("Stopped")
	return nil
}
