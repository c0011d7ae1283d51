package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

const (
	// maxIncident bounds a request about incidents.
	maxIncident = 8 << 10
	// farewell is how long the session of a revoked instance stays at most.
	farewell = time.Second
)

func listIncidents(kind string) handler {
	return func(s *clientAPI, w http.ResponseWriter, r *http.Request) error {
		if _, err := query(r); err != nil {
			return err
		}
		if kind != apiv1.BreakGlass && s.user(r) == nil {
			return problem.New("CRD-040", "who is revoked and why is for users of the manifest")
		}
		return answer(w, s.c.Incidents(kind))
	}
}

func revoke(kind string) handler {
	return func(s *clientAPI, w http.ResponseWriter, r *http.Request) error {
		var in apiv1.RevokeRequest
		user, err := s.receive(w, r, maxIncident, &in)
		if err != nil {
			return err
		}
		out, err := s.c.Revoke(r.Context(), user, kind, in)
		if err != nil {
			return err
		}
		return answer(w, out)
	}
}

func (s *clientAPI) breakGlass(w http.ResponseWriter, r *http.Request) error {
	var in apiv1.BreakGlassRequest
	user, err := s.receive(w, r, maxIncident, &in)
	if err != nil {
		return err
	}
	out, err := s.c.BreakGlass(r.Context(), user, in)
	if err != nil {
		return err
	}
	return answer(w, out)
}

func lift(kind string) handler {
	return func(s *clientAPI, w http.ResponseWriter, r *http.Request) error {
		var in apiv1.LiftRequest
		user, err := s.receive(w, r, maxIncident, &in)
		if err != nil {
			return err
		}
		id, err := strconv.Atoi(r.PathValue("id"))
		if err != nil || id < 1 || strconv.Itoa(id) != r.PathValue("id") {
			return problem.New("CRD-110", "%q is no number of an incident", clip(r.PathValue("id"), 40))
		}
		out, err := s.c.Lift(r.Context(), user, kind, id, in.Reason)
		if err != nil {
			return err
		}
		return answer(w, out)
	}
}

func (s *clientAPI) lineage(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "kind", "name", "instance")
	if err != nil {
		return err
	}
	out, err := s.c.Lineage(r.Context(), s.user(r), apiv1.Subject{Kind: q.Get("kind"), Name: q.Get("name"), Instance: q.Get("instance")})
	if err != nil {
		return err
	}
	return answer(w, out)
}

func (s *clientAPI) rotateTouched(w http.ResponseWriter, r *http.Request) error {
	var in apiv1.RotateTouchedRequest
	user, err := s.receive(w, r, maxIncident, &in)
	if err != nil {
		return err
	}
	out, err := s.c.RotateTouched(r.Context(), user, in)
	if err != nil {
		return err
	}
	return answer(w, out)
}

// tellRevoked tells a marble that its identity is taken away, and ends its
// session when that was sent, or a moment later: a marble that takes nothing is
// not waited for.
func (l *live) tellRevoked(gone error) error {
	e := problem.From(gone)
	told := &marblepb.SessionResponse{Message: &marblepb.SessionResponse_Revocation{Revocation: &marblepb.Revocation{Code: string(e.Code), Reason: text(e.Detail)}}}
	if l.queue(told) != nil {
		return gone
	}
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-l.lost: // it has gone, as it should
	case <-timer.C:
	}
	return gone
}
