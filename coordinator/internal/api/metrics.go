package api

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Metrics are the coordinator's figures. No label's value is a caller's choice:
// codes come from the table, TEEs and routes from closed lists.
type Metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	requestS  *prometheus.HistogramVec
	decisions *prometheus.CounterVec
	decisionS *prometheus.HistogramVec
	proxies   prometheus.Gauge
	refusals  *prometheus.CounterVec
	sessions  prometheus.Gauge
	panics    prometheus.Counter
	replica   replicaFigures

	mu     sync.Mutex                       // guards gates
	gates  map[string]*atomic.Pointer[Gate] // by port: the newest
	lapses atomic.Pointer[func() coordinator.Lapses]
}

// NewMetrics returns metrics on a registry of their own.
func NewMetrics(version string, simulation bool) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), gates: map[string]*atomic.Pointer[Gate]{}}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "ashlar", Name: name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "ashlar", Name: name, Help: help,
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}}, labels)
		m.registry.MustRegister(v)
		return v
	}
	gauge := func(name, help string) prometheus.Gauge {
		v := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "ashlar", Name: name, Help: help})
		m.registry.MustRegister(v)
		return v
	}
	m.requests = counter("http_requests_total", "Requests of the client API by route and status.", "route", "status")
	m.requestS = histogram("http_request_seconds", "Time to answer a request of the client API.", "route")
	m.decisions = counter("decisions_total", "Activations and renewals by outcome; code is empty where accepted.", "purpose", "tee", "result", "code")
	m.decisionS = histogram("decision_seconds", "Time from an activation's or renewal's arrival to its durable answer.", "purpose", "result")
	m.refusals = counter("xds_refusals_total", "Configuration that a proxy refused, by resource type.", "type")
	m.proxies = gauge("xds_proxies", "Proxies connected to ADS.")
	m.sessions = gauge("marble_sessions", "Open sessions of marbles.")
	m.panics = prometheus.NewCounter(prometheus.CounterOpts{Namespace: "ashlar", Name: "panics_total", Help: "Requests that ended in a contained panic: each is a defect."})
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "ashlar", Name: "build_info", Help: "Always 1.",
		ConstLabels: prometheus.Labels{"version": version, "simulation": strconv.FormatBool(simulation)}})
	info.Set(1)
	m.registry.MustRegister(m.panics, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Commits observes how long each commit of the store took.
func (m *Metrics) Commits() func(time.Duration, error) {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "ashlar", Name: "store_commit_seconds",
		Help: "Time of one commit, until it is durable.", Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .5, 2.5}}, []string{"result"})
	m.registry.MustRegister(h)
	return func(d time.Duration, err error) {
		word := "durable"
		if err != nil {
			word = "failed"
		}
		h.WithLabelValues(word).Observe(d.Seconds())
	}
}

// Watch publishes the connections of a port, from now on those of g.
func (m *Metrics) Watch(port string, g *Gate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if newest := m.gates[port]; newest != nil {
		newest.Store(g)
		return
	}
	newest := new(atomic.Pointer[Gate])
	newest.Store(g)
	m.gates[port] = newest
	labels := prometheus.Labels{"port": port}
	add := func(c prometheus.Collector) { m.registry.MustRegister(c) }
	add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "ashlar", Name: "connections", Help: "Open connections.", ConstLabels: labels},
		func() float64 { n, _, _ := newest.Load().Counts(); return float64(n) }))
	add(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "ashlar", Name: "connections_refused_total", Help: "Connections over a limit that were refused.", ConstLabels: labels},
		func() float64 { _, n, _ := newest.Load().Counts(); return float64(n) }))
	add(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "ashlar", Name: "connections_evicted_total", Help: "Idle connections that were closed to make room.", ConstLabels: labels},
		func() float64 { _, _, n := newest.Load().Counts(); return float64(n) }))
}

// WatchLapses publishes how many instances are on the way to losing their
// identity, from now on those that lapses counts.
func (m *Metrics) WatchLapses(lapses func() coordinator.Lapses) {
	if m.lapses.Swap(&lapses) != nil {
		return
	}
	for stage, count := range map[string]func(coordinator.Lapses) int{
		"degraded": func(l coordinator.Lapses) int { return l.Degraded },
		"drained":  func(l coordinator.Lapses) int { return l.Drained },
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "ashlar", Name: "instances_lapsing",
			Help: "Instances whose renewal is overdue, by how far.", ConstLabels: prometheus.Labels{"stage": stage}},
			func() float64 { return float64(count((*m.lapses.Load())())) }))
	}
}

func (m *Metrics) request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.requestS.WithLabelValues(route).Observe(took.Seconds())
}

// decision counts one activation or renewal. The TEE is what the marble said,
// and counts as "other" unless it is in the list.
func (m *Metrics) decision(purpose, tee string, err error, took time.Duration) {
	switch attest.TEE(tee) {
	case attest.SGX, attest.TDX, attest.SNP, attest.SimSGX, attest.SimTDX:
	default:
		tee = "other"
	}
	code := problem.Code("")
	if err != nil {
		if code = problem.CodeOf(err); !problem.Known(code) {
			code = "CRD-001"
		}
	}
	m.decisions.WithLabelValues(purpose, tee, result(err), string(code)).Inc()
	m.decisionS.WithLabelValues(purpose, result(err)).Observe(took.Seconds())
}

func result(err error) string {
	if err != nil {
		return "refused"
	}
	return "accepted"
}

// ProxyEvent counts what a proxy did.
func (m *Metrics) ProxyEvent(e coordinator.ProxyEvent) {
	if e.Connected != nil {
		if *e.Connected {
			m.proxies.Inc()
		} else {
			m.proxies.Dec()
		}
	}
	if e.State == "refused" {
		switch e.Type {
		case "cluster", "endpoint", "listener", "route":
			m.refusals.WithLabelValues(e.Type).Inc()
		default:
			m.refusals.WithLabelValues("other").Inc()
		}
	}
}

// Probe says whether the coordinator serves, and where it stands.
type Probe struct {
	Ready  bool   `json:"ready"`
	Stage  string `json:"stage"`
	Reason string `json:"reason,omitempty"`
}

// NewOperations returns the server of /metrics, /livez and /readyz. It has no
// authentication: listen on loopback.
func NewOperations(m *Metrics, probe func() Probe) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		p := probe()
		probed(w, http.StatusOK, p)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		p := probe()
		status := http.StatusOK
		if !p.Ready {
			status = http.StatusServiceUnavailable
		}
		probed(w, status, p)
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10, ConnState: connState}
}

// ServeOperations serves l until the server is closed. Its few connections come
// out of the descriptors that are kept for the store.
func ServeOperations(s *http.Server, l net.Listener, g *Gate) error {
	if err := s.Serve(g.Listen(l)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func probed(w http.ResponseWriter, status int, p Probe) {
	body, err := json.Marshal(p)
	if err != nil { // strings and a bool always encode
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	write(w, status, body)
}
