package admission

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podtoken/podtoken/pkg/api"
)

// reasonsOf lists every combination of outcome and reason that a review can end with.
func reasonsOf() map[api.Outcome][]api.Reason {
	return map[api.Outcome][]api.Reason{
		api.OutcomeInjected:  {api.ReasonSidecar, api.ReasonProjected},
		api.OutcomeUnchanged: {api.ReasonAlreadyInjected},
		api.OutcomeSkipped: {
			api.ReasonNoAnnotation, api.ReasonSwitchedOff, api.ReasonMirrorPod, api.ReasonNotCreate, api.ReasonNotAPod,
		},
		api.OutcomeDenied: {
			api.ReasonUnknownAnnotation, api.ReasonInvalidValue, api.ReasonNoAudience,
			api.ReasonConflict, api.ReasonUnsupported, api.ReasonLimitExceeded,
			api.ReasonNotAllowed,
		},
		api.OutcomeError: {api.ReasonMalformed, api.ReasonTooLarge, api.ReasonDeadline, api.ReasonOverloaded, api.ReasonInternal},
	}
}

// Metrics of the reviews.
type Metrics struct {
	reviews  *prometheus.CounterVec
	duration prometheus.Histogram
	inFlight prometheus.Gauge
}

// NewMetrics registers the metrics of the reviews. Every combination of labels that can occur is there from the start,
// at 0, so that the first event of a kind is an increase.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		reviews: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podtoken_admission_reviews_total",
			Help: "Admission reviews answered, by outcome and reason.",
		}, []string{"outcome", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "podtoken_admission_review_duration_seconds",
			Help: "Time from a review's header to its answer; it includes waiting for the body.",
			// 50 µs is less than the smallest pod takes, 5 s is the timeout in the webhook's registration.
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podtoken_admission_reviews_in_flight",
			Help: "Admission reviews that are being read, decided or answered.",
		}),
	}
	registry.MustRegister(m.reviews, m.duration, m.inFlight)
	for outcome, reasons := range reasonsOf() {
		for _, reason := range reasons {
			m.reviews.WithLabelValues(string(outcome), string(reason))
		}
	}
	return m
}

func (m *Metrics) observe(outcome api.Outcome, reason api.Reason, duration time.Duration) {
	m.reviews.WithLabelValues(string(outcome), string(reason)).Inc()
	m.duration.Observe(duration.Seconds())
}
