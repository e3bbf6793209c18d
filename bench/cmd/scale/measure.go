package main

import (
	"context"
	"fmt"
	"time"

	"github.com/podtoken/podtoken/bench/kube"
	"github.com/podtoken/podtoken/bench/proc"
	"github.com/podtoken/podtoken/bench/report"
)

// part is the process of a part of podtoken, and what was seen of it.
type part struct {
	name          string
	pid           int
	before, after proc.Memory
	began, did    proc.Work
	peak          float64
}

func (p *part) find(ctx context.Context, w *kube.World) error {
	pod, err := w.Part(ctx, p.name)
	if err != nil {
		return err
	}
	p.pid, _, err = kube.Process(pod, p.name)
	if err != nil {
		return err
	}
	if p.before, err = proc.MemoryOf(p.pid); err != nil {
		return err
	}
	p.began, err = proc.WorkOf(p.pid)
	return err
}

func (p *part) look() (err error) {
	if p.after, err = proc.MemoryOf(p.pid); err != nil {
		return fmt.Errorf("the %s has ended meanwhile: %w", p.name, err)
	}
	if p.peak, err = proc.PeakOf(p.pid); err != nil {
		return err
	}
	work, err := proc.WorkOf(p.pid)
	p.did = work.Since(p.began)
	return err
}

func measure(ctx context.Context, w *kube.World, kwok []string, size dimensions) (string, error) {
	stop, err := startNodes(ctx, w, kwok, size.nodes)
	if err != nil {
		return "", err
	}
	defer stop()
	l, err := newLoad(w.Config, size)
	if err != nil {
		return "", err
	}
	if err := l.makeAccounts(ctx); err != nil {
		return "", err
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	granted, err := watchGrants(watching, l.client)
	if err != nil {
		return "", err
	}
	parts := []*part{{name: "webhook"}, {name: "controller"}}
	for _, p := range parts {
		if err := p.find(ctx, w); err != nil {
			return "", err
		}
	}
	took, err := l.makePods(ctx)
	if err != nil {
		return "", err
	}
	created := time.Now()
	if err := granted.wait(ctx, size.accounts); err != nil {
		return "", err
	}
	for _, p := range parts {
		if err := p.look(); err != nil {
			return "", err
		}
	}
	return tabulate(l, granted, parts, took, created), nil
}

func tabulate(l *load, granted *grants, parts []*part, took time.Duration, created time.Time) string {
	times := granted.after(l.asked)
	loads := report.Table{Head: []string{fmt.Sprintf("%d injected pods of %d ServiceAccounts on %d nodes, and %d others", len(l.injected), l.accounts, l.nodes, len(l.others)), ""}}
	loads.Row("pods created a second, by 16 clients at the same time", fmt.Sprintf("%.0f", float64(len(l.injected)+len(l.others))/took.Seconds()))
	percentiles := func(name string, s report.Sample) {
		loads.Row(name, fmt.Sprintf("%.0f / %.0f / %.0f ms", s.Median(), s.Percentile(99), s.Percentile(100)))
	}
	percentiles("creation of an injected pod: median / 99 % / longest", l.injected)
	percentiles("creation of another pod", l.others)
	percentiles("first pod of a ServiceAccount to its grant", times)
	loads.Row("last grant after the last pod", fmt.Sprintf("%.0f ms", max(float64(granted.last.Sub(created).Microseconds())/1000, 0)))
	loads.Row("Roles and RoleBindings made", fmt.Sprintf("%d each", len(times)))
	memory := report.Table{Head: []string{"", "RSS before, MiB", "RSS after, MiB", "most, MiB", "anonymous after, MiB", "CPU, ms a pod", "CPU, cores meanwhile"}}
	for _, p := range parts {
		mib := func(bytes float64) string { return fmt.Sprintf("%.1f", bytes/(1<<20)) }
		memory.Row(p.name, mib(p.before.RSS), mib(p.after.RSS), mib(p.peak), mib(p.after.Anonymous),
			fmt.Sprintf("%.2f", float64(p.did.CPU.Microseconds())/1e3/float64(len(l.injected))), fmt.Sprintf("%.2f", p.did.CPU.Seconds()/took.Seconds()))
	}
	return loads.String() + "\n" + memory.String()
}
