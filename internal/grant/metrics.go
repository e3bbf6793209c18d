package grant

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// outcome and reason tell how a reconciliation ended: closed sets, used as metric labels and in the log.
type (
	outcome string
	reason  string
)

const (
	outcomeUnchanged outcome = "Unchanged"
	outcomeApplied   outcome = "Applied"
	outcomeWithdrawn outcome = "Withdrawn"
	outcomeRemoved   outcome = "Removed"
	outcomeWaiting   outcome = "Waiting"
	outcomeError     outcome = "Error"

	reasonUpToDate              reason = "UpToDate"
	reasonNotNeeded             reason = "NotNeeded"
	reasonRefused               reason = "Refused"
	reasonCreated               reason = "Created"
	reasonChanged               reason = "Changed"
	reasonServiceAccountMissing reason = "ServiceAccountMissing"
	reasonGuardMissing          reason = "GuardMissing"
	reasonConflict              reason = "GrantConflict"
	reasonNamespaceTerminating  reason = "NamespaceTerminating"
	// reasonWithdrawing: the rights are gone, the mark stays until requests that were authorized earlier have ended.
	reasonWithdrawing reason = "Withdrawing"
	// reasonFinalizers: the objects were deleted, and finalizers of others keep them.
	reasonFinalizers reason = "Finalizers"
	// reasonCache: the cache does not show our own last write yet.
	reasonCache reason = "Cache"
	reasonAPI   reason = "APIServer"
)

// outcomes are all pairs that there are.
var outcomes = map[outcome][]reason{
	outcomeUnchanged: {reasonUpToDate, reasonNotNeeded, reasonRefused},
	outcomeApplied:   {reasonCreated, reasonChanged},
	outcomeWithdrawn: {reasonNotNeeded, reasonRefused},
	outcomeRemoved:   {reasonNotNeeded, reasonRefused},
	outcomeWaiting:   {reasonServiceAccountMissing, reasonGuardMissing, reasonConflict, reasonNamespaceTerminating, reasonWithdrawing, reasonFinalizers, reasonCache},
	outcomeError:     {reasonAPI},
}

type metrics struct {
	reconciles *prometheus.CounterVec
	delay      prometheus.Histogram
	// unbound counts what unbind does.
	unbound prometheus.Counter
}

// scrapeTimeout bounds reading the caches for a scrape. They are in memory, and only before they are filled is there
// something to wait for.
const scrapeTimeout = 100 * time.Millisecond

func newMetrics(r *Reconciler, registry prometheus.Registerer) *metrics {
	m := &metrics{
		reconciles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podtoken_grant_reconciles_total",
			Help: "How often a ServiceAccount was looked at, by what came of it.",
		}, []string{"outcome", "reason"}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "podtoken_grant_delay_seconds",
			Help:    "Time from the creation of a pod to the grant that it waited for, for grants that had to be written. The API server tells the creation in whole seconds.",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300},
		}),
	}
	m.unbound = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "podtoken_grant_unbound_total",
		Help: "How often a RoleBinding was deleted because its Role gave more than it may and could not be changed.",
	})
	for o, reasons := range outcomes {
		for _, why := range reasons {
			m.reconciles.WithLabelValues(string(o), string(why))
		}
	}
	registry.MustRegister(m.reconciles, m.delay, m.unbound,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "podtoken_grants",
			Help: "Roles that this controller maintains.",
		}, func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
			defer cancel()
			return float64(r.countRoles(ctx))
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "podtoken_grant_refused_pods",
			Help: "Pods that get no grant because the policy forbids a token that they declare. 0 in a replica that does not lead.",
		}, func() float64 { return float64(r.accounts.refused.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "podtoken_grant_waiting_pods",
			Help: "Pods whose grant is not there yet, although the policy allows it. 0 in a replica that does not lead.",
		}, func() float64 { return float64(r.accounts.waiting.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "podtoken_guard_present",
			Help: "1 when the guard was proven: each API server that the controller reaches enforces --guard and --controller-guard; 0 while nothing new is granted for want of that.",
		}, func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
			defer cancel()
			if r.guard.problem(ctx) != "" {
				return 0
			}
			return 1
		}),
	)
	for _, state := range []string{stateEnforcing, stateNotEnforcing, stateUnknown} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "podtoken_guard_api_servers",
			Help: "API servers by whether they enforced the guards when they were last asked, that of the Service once more; " +
				"Unknown are those that the controller does not reach.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(r.guard.proof.count(state)) }))
	}
	return m
}
