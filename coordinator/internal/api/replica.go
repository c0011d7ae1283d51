package api

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/ratls"
)

const (
	maxQuestion = 1 << 10 // bytes: a nonce
	maxJoining  = 2 << 20 // bytes: evidence, its event log and devices in base64
	maxJoins    = 4       // coordinators judged at once
	// joinRate is how often an address may ask, in a second: behind it there may be
	// several replicas whose connections a standby passes on.
	joinRate  = 2
	joinBurst = 20
)

// joins bounds what further coordinators, and whoever says to be one, may cost.
type joins struct {
	rate      *rate
	judging   chan struct{}
	decisions decisions
}

func newJoins(c Config) joins {
	return joins{rate: newRate(joinRate, joinBurst, c.Now), judging: make(chan struct{}, maxJoins), decisions: newDecisions(c)}
}

// join reads the request of a coordinator that wants the key of the state, and
// returns the session that it came over.
func (s *clientAPI) join(w http.ResponseWriter, r *http.Request, limit int64, into any) (coordinator.Session, *gated, error) {
	sess, conn, err := s.mayJoin(w, r, limit)
	if err != nil {
		unwanted(w, r)
		return sess, nil, err
	}
	return sess, conn, s.document(w, r, limit, into)
}

func (s *clientAPI) mayJoin(w http.ResponseWriter, r *http.Request, limit int64) (coordinator.Session, *gated, error) {
	var none coordinator.Session
	if _, err := query(r); err != nil {
		return none, nil, err
	}
	conn, _ := r.Context().Value(connKey{}).(*gated)
	if conn == nil || conn.served.Load() == nil || r.TLS == nil {
		return none, nil, problem.New("CRD-110", "the key of the state is given over TLS only")
	}
	exporter, err := ratls.Exporter(*r.TLS)
	if err != nil {
		return none, nil, err
	}
	if ok, after := s.joins.rate.take(conn.host); !ok {
		retryAfter(w, after)
		return none, nil, problem.New("CRD-115", "too many coordinators asked from this address")
	}
	return coordinator.Session{Exporter: exporter, Remote: conn.name}, conn, mayBeDocument(r, limit)
}

func (s *clientAPI) challengeReplica(w http.ResponseWriter, r *http.Request) error {
	var q apiv1.ReplicaQuestion
	sess, conn, err := s.join(w, r, maxQuestion, &q)
	if err != nil {
		return err
	}
	c, err := s.c.ChallengeReplica(r.Context(), sess, q, *conn.served.Load())
	if err != nil {
		return err
	}
	return answer(w, c)
}

func (s *clientAPI) admitReplica(w http.ResponseWriter, r *http.Request) error {
	var req apiv1.ReplicaRequest
	sess, _, err := s.join(w, r, maxJoining, &req)
	if err != nil {
		return err
	}
	select {
	case s.joins.judging <- struct{}{}:
		defer func() { <-s.joins.judging }()
	default:
		return problem.New("CRD-115", "%d coordinators are being judged", cap(s.joins.judging))
	}
	started := time.Now()
	key, err := s.c.AdmitReplica(r.Context(), sess, req)
	s.joins.decisions.log("replica", slog.String("replica", text(req.Name)), err)
	s.metrics.decision("replica", string(req.Evidence.TEE), err, time.Since(started))
	if err != nil {
		return err
	}
	return answer(w, key)
}
