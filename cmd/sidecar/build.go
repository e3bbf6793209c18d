package main

import (
	"context"
	"log/slog"
	"sync"

	"github.com/podtoken/podtoken/internal/alarm"
	"github.com/podtoken/podtoken/internal/atomicfile"
	"github.com/podtoken/podtoken/internal/tokenrequest"
	"github.com/podtoken/podtoken/internal/version"
	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/sidecar/notify"
	"github.com/podtoken/podtoken/pkg/sidecar/serve"
)

// parts are what the command run runs. The sidecar hands the others what they need and never waits for them.
type parts struct {
	sidecar  *sidecar.Sidecar
	notifier *notify.Notifier
	// server is nil without a port.
	server *serve.Server
	// alarm is nil where the kernel has none.
	alarm *alarm.Alarm
}

// build wires the sidecar of the options and the environment.
func (o options) build(getenv func(string) string, log *slog.Logger) (*parts, error) {
	config, err := o.config(getenv)
	if err != nil {
		return nil, err
	}
	client, err := tokenrequest.New(tokenrequest.Config{
		Host:          getenv("KUBERNETES_SERVICE_HOST"),
		Port:          getenv("KUBERNETES_SERVICE_PORT"),
		CredentialDir: o.apiDir,
		Pod:           config.Pod,
		UserAgent:     "podtoken-sidecar/" + version.Version,
	})
	if err != nil {
		return nil, err
	}
	files, err := atomicfile.Open(config.Dir)
	if err != nil {
		return nil, err
	}
	p := &parts{notifier: notify.New(config, version.Version, log)}
	deps := sidecar.Deps{Minter: newThrifty(client), Writer: files, Log: log, Version: version.Version, Refresh: refreshSignal(), Cluster: client.Cluster}
	deps.OnBatch = func(_ context.Context, batch sidecar.Batch) { p.notifier.Changed(batch.Written) }
	if config.MetricsPort != 0 {
		p.server = serve.New(serve.Config{
			Port: config.MetricsPort, Version: version.Version, Log: log, Notifications: p.notifier.Counts,
		})
		deps.OnSnapshot = p.server.Update
	}
	if p.alarm, err = alarm.New(); err == nil {
		deps.Alarm = p.alarm
	} else {
		log.Warn("The kernel has no timer for us, the runtime's is used", "error", err.Error())
	}
	p.sidecar = sidecar.New(config, deps)
	return p, nil
}

// run runs everything until ctx ends. The error is the sidecar's.
func (p *parts) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	if p.alarm != nil {
		defer func() { _ = p.alarm.Close() }()
	}
	others.Go(func() { p.notifier.Run(ctx) })
	if p.server != nil {
		others.Go(func() { p.server.Run(ctx) })
	}
	return p.sidecar.Run(ctx)
}
