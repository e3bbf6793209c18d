package servingcert

import (
	"crypto/x509"
	"encoding/pem"

	"github.com/prometheus/client_golang/prometheus"
)

// result of a step.
const (
	resultSuccess = "success"
	resultFailure = "failure"
)

type metrics struct {
	steps             *prometheus.CounterVec
	certificateExpiry prometheus.Gauge
	authorityExpiry   prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podtoken_serving_certificate_steps_total",
			Help: "Writes to the Secret of the webhook's certificate and to the webhook's registration, by what they were for.",
		}, []string{"step", "result"}),
		certificateExpiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podtoken_serving_certificate_expiry_timestamp_seconds",
			Help: "Unix time at which the certificate in the Secret expires; 0 in a replica that does not lead.",
		}),
		authorityExpiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podtoken_serving_authority_expiry_timestamp_seconds",
			Help: "Unix time at which the CA of the webhook's certificate expires; 0 in a replica that does not lead.",
		}),
	}
	for _, step := range []Step{StepFirst, StepAuthority, StepDoubt, StepBundle, StepTrusted, StepCertificate, StepForget} {
		for _, result := range []string{resultSuccess, resultFailure} {
			m.steps.WithLabelValues(string(step), result)
		}
	}
	registry.MustRegister(m.steps, m.certificateExpiry, m.authorityExpiry)
	return m
}

func (m *metrics) did(step Step, err error) {
	result := resultSuccess
	if err != nil {
		result = resultFailure
	}
	m.steps.WithLabelValues(string(step), result).Inc()
}

func (m *metrics) looked(v View) {
	m.certificateExpiry.Set(expiry(v.State.Certificate))
	m.authorityExpiry.Set(expiry(v.State.Authority))
}

// expiry returns when the first certificate of a PEM text ends, 0 if there is none.
func expiry(text []byte) float64 {
	block, _ := pem.Decode(text)
	if block == nil {
		return 0
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return 0
	}
	return float64(certificate.NotAfter.Unix())
}
