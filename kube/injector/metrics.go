package injector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics are the injector's figures. No label's value is a caller's choice:
// all come from closed lists.
type metrics struct {
	registry *prometheus.Registry
	reviews  *prometheus.CounterVec
	reviewS  prometheus.Histogram
	bundles  *prometheus.CounterVec
	pods     *prometheus.GaugeVec
	leading  prometheus.Gauge
}

func newMetrics(version string) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.reviews = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "ashlar", Subsystem: "injector", Name: "reviews_total",
		Help: "Admission reviews by outcome: injected, untouched, refused, malformed."}, []string{"outcome"})
	m.reviewS = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "ashlar", Subsystem: "injector", Name: "review_seconds",
		Help: "Time to answer an admission review.", Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}})
	m.bundles = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "ashlar", Subsystem: "injector", Name: "ca_bundle_checks_total",
		Help: "Looks at the webhook's caBundle by result: ok, failed."}, []string{"result"})
	m.pods = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "ashlar", Subsystem: "injector", Name: "pods",
		Help: "Marbles' pods by the reason in their condition ashlar.dev/attested; of the leader alone."}, []string{"reason"})
	m.leading = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "ashlar", Subsystem: "injector", Name: "leader",
		Help: "1 in the replica that writes the conditions of pods."})
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "ashlar", Subsystem: "injector", Name: "build_info", Help: "Always 1.",
		ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	for _, o := range []string{injected, untouched, refused, malformed} {
		m.reviews.WithLabelValues(o)
	}
	m.registry.MustRegister(m.reviews, m.reviewS, m.bundles, m.pods, m.leading, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watch publishes when the certificate ends and how old the manifest is.
func (m *metrics) watch(k *keeper, s *Source, now func() time.Time) {
	gauge := func(name, help string, f func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "ashlar", Subsystem: "injector", Name: name, Help: help}, f))
	}
	gauge("certificate_not_after_seconds", "When the webhook's certificate ends, Unix time; 0 without one.", func() float64 {
		if cert, _ := k.State(); cert != nil {
			return float64(cert.NotAfter.Unix())
		}
		return 0
	})
	gauge("manifest_age_seconds", "Since when nobody knows whether the manifest that pods are judged by is in force; -1 without one.", func() float64 {
		seen, _ := s.known(now())
		if seen.Manifest == nil {
			return -1
		}
		return now().Sub(seen.At).Seconds()
	})
}

func (m *metrics) review(outcome string, took time.Duration) {
	m.reviews.WithLabelValues(outcome).Inc()
	m.reviewS.Observe(took.Seconds())
}

func (m *metrics) bundle(err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.bundles.WithLabelValues(result).Inc()
}

// count publishes how many pods there are of each reason, a closed list.
func (m *metrics) count(reasons map[string]int) {
	m.pods.Reset()
	for reason, n := range reasons {
		m.pods.WithLabelValues(reason).Set(float64(n))
	}
}

func (m *metrics) lead(leading bool) {
	m.leading.Set(0)
	if leading {
		m.leading.Set(1)
	} else {
		m.pods.Reset()
	}
}
