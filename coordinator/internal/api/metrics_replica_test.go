package api

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestReplicaMetrics(t *testing.T) {
	m := NewMetrics("test", false)
	role := "joining"
	m.WatchReplica(ReplicaFigures{Role: func() string { return role }, Head: func() uint64 { return 7 }, Ports: map[string]func() ReplicaPort{
		"client": func() ReplicaPort { return ReplicaPort{Passing: 1, Passed: 2, Refused: 3, Unheard: 4, Forged: 5} },
		"mesh":   func() ReplicaPort { return ReplicaPort{Passed: 6} },
	}})
	role = "active"
	m.TakeOver()
	m.Join(nil)
	m.Join(problem.New("REP-021", "it was refused"))
	m.Join(errors.New("no code"))
	w := httptest.NewRecorder()
	NewOperations(m, func() Probe { return Probe{} }).Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`role{role="active"} 1`, `role{role="standby"} 0`, `role{role="joining"} 0`, `head_sequence 7`, `takeovers_total 1`,
		`connections_passing{port="client"} 1`, `connections_passed_total{port="client"} 2`, `connections_passed_total{port="mesh"} 6`,
		`connections_closed_total{port="client",reason="full"} 3`, `connections_closed_total{port="client",reason="unanswered"} 4`,
		`connections_closed_total{port="client",reason="forged"} 5`, `connections_closed_total{port="mesh",reason="forged"} 0`,
		`joins_total{code="",result="accepted"} 1`, `joins_total{code="REP-021",result="refused"} 1`, `joins_total{code="CRD-001",result="refused"} 1`,
	} {
		if !strings.Contains(w.Body.String(), "\nashlar_replica_"+want+"\n") {
			t.Errorf("wanted ashlar_replica_%s in\n%s", want, w.Body)
		}
	}
}
