package api

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// ReplicaFigures are what one of several coordinators knows of itself.
type ReplicaFigures struct {
	Role  func() string                 // active, standby or joining
	Head  func() uint64                 // sequence of the newest head of the state that it has seen
	Ports map[string]func() ReplicaPort // by name
}

// ReplicaPort is what became of the connections to a port.
type ReplicaPort struct {
	Passing int    // on to the active replica
	Passed  uint64 // since the start
	Refused uint64 // for want of room
	Unheard uint64 // nobody was there in time
	Forged  uint64 // with a header that does not verify
}

// replicaFigures are counted here.
type replicaFigures struct {
	takeovers prometheus.Counter
	joins     *prometheus.CounterVec
}

// WatchReplica publishes the figures of one of several coordinators.
func (m *Metrics) WatchReplica(f ReplicaFigures) {
	add := func(c prometheus.Collector) { m.registry.MustRegister(c) }
	for _, role := range []string{apiv1.ReplicaActive, apiv1.ReplicaStandby, apiv1.ReplicaJoining} {
		add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "ashlar", Name: "replica_role", Help: "1 for the role of this replica, 0 for the others.",
			ConstLabels: prometheus.Labels{"role": role}}, func() float64 {
			if f.Role() == role {
				return 1
			}
			return 0
		}))
	}
	add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "ashlar", Name: "replica_head_sequence",
		Help: "Sequence of the newest head of the state that this replica has seen."}, func() float64 { return float64(f.Head()) }))
	for name, port := range f.Ports {
		labels := prometheus.Labels{"port": name}
		add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "ashlar", Name: "replica_connections_passing",
			Help: "Connections that are being passed on to the active replica.", ConstLabels: labels}, func() float64 { return float64(port().Passing) }))
		add(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "ashlar", Name: "replica_connections_passed_total",
			Help: "Connections that were passed on to the active replica.", ConstLabels: labels}, func() float64 { return float64(port().Passed) }))
		for reason, of := range map[string]func(ReplicaPort) uint64{
			"full":       func(p ReplicaPort) uint64 { return p.Refused },
			"unanswered": func(p ReplicaPort) uint64 { return p.Unheard },
			"forged":     func(p ReplicaPort) uint64 { return p.Forged },
		} {
			add(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "ashlar", Name: "replica_connections_closed_total",
				Help:        "Connections that were closed unserved: for want of room, because nobody was there in time, or because of a header that does not verify.",
				ConstLabels: prometheus.Labels{"port": name, "reason": reason}}, func() float64 { return float64(of(port())) }))
		}
	}
	m.replica.takeovers = prometheus.NewCounter(prometheus.CounterOpts{Namespace: "ashlar", Name: "replica_takeovers_total",
		Help: "How often this replica became the active one."})
	m.replica.joins = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "ashlar", Name: "replica_joins_total",
		Help: "Times that this replica asked for the state's key, by outcome; code is empty where it got it."}, []string{"result", "code"})
	add(m.replica.takeovers)
	add(m.replica.joins)
}

// TakeOver counts that this replica became the active one.
func (m *Metrics) TakeOver() { m.replica.takeovers.Inc() }

// Join counts that this replica asked for the state's key.
func (m *Metrics) Join(err error) {
	code := problem.Code("")
	if err != nil {
		if code = problem.CodeOf(err); !problem.Known(code) {
			code = "CRD-001"
		}
	}
	m.replica.joins.WithLabelValues(result(err), string(code)).Inc()
}
