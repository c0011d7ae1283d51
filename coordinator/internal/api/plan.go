package api

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Size limits of bodies, in bytes.
const (
	maxPlan  = 12 << 20 // a manifest in base64, and endorsements
	maxFloor = 64 << 10
)

// authenticated returns the user whose certificate the connection has.
func (s *clientAPI) authenticated(r *http.Request) (*coordinator.Principal, error) {
	if r.TLS == nil {
		return s.c.Authenticate(nil)
	}
	return s.c.Authenticate(r.TLS.PeerCertificates)
}

// user is authenticated for what anybody may read, if less of it: nil stands
// for everybody else.
func (s *clientAPI) user(r *http.Request) *coordinator.Principal {
	p, err := s.authenticated(r)
	if err != nil {
		return nil
	}
	return p
}

func (s *clientAPI) plan(w http.ResponseWriter, r *http.Request) error {
	var req apiv1.PlanRequest
	_, err := s.receive(w, r, maxPlan, &req)
	if err != nil {
		return err
	}
	p, err := s.c.Plan(r.Context(), req)
	if err != nil {
		return err
	}
	return answer(w, p)
}

func (s *clientAPI) basis(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if _, err := s.authenticated(r); err != nil {
		return err
	}
	b, err := s.c.Basis(r.Context(), r.PathValue("marble")+"/"+r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, b)
}

func (s *clientAPI) floors(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return answer(w, s.c.Floors())
}

func (s *clientAPI) floor(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	f, err := s.c.Floor(r.PathValue("platform"))
	if err != nil {
		return err
	}
	if f.Digest != nil {
		w.Header().Set("ETag", etag(f.Digest))
	}
	return answer(w, f)
}

func (s *clientAPI) raiseFloor(w http.ResponseWriter, r *http.Request) error {
	req := coordinator.RaiseRequest{Platform: r.PathValue("platform")}
	var err error
	if req.IfMatch, err = ifMatch(r); err != nil {
		unwanted(w, r)
		return err
	}
	var floor attest.Floor
	if req.Principal, err = s.receive(w, r, maxFloor, &floor); err != nil {
		return err
	}
	req.Floor = floor
	result, err := s.c.RaiseFloor(r.Context(), req)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(result.Floor.Digest))
	return answer(w, result)
}

// receive reads the JSON document of a user's request. What can be refused
// before the body is read is.
func (s *clientAPI) receive(w http.ResponseWriter, r *http.Request, limit int64, into any) (*coordinator.Principal, error) {
	user, err := s.mayReceive(r, limit)
	if err != nil {
		unwanted(w, r)
		return nil, err
	}
	return user, s.document(w, r, limit, into)
}

// document reads the JSON document that is the body.
func (s *clientAPI) document(w http.ResponseWriter, r *http.Request, limit int64, into any) error {
	raw, err := s.read(w, r, limit)
	if err != nil {
		return err
	}
	if raw == nil {
		return problem.New("CRD-113", "wanted at most %d bytes", limit)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return problem.New("CRD-110", "the body cannot be read: %.200s", err.Error())
	}
	if _, err := d.Token(); err != io.EOF {
		return problem.New("CRD-110", "the body goes on after its document")
	}
	return nil
}

func (s *clientAPI) mayReceive(r *http.Request, limit int64) (*coordinator.Principal, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	user, err := s.authenticated(r)
	if err != nil {
		return nil, err
	}
	return user, mayBeDocument(r, limit)
}

// mayBeDocument refuses a body that is no JSON document of at most limit bytes, as
// far as its head says.
func mayBeDocument(r *http.Request, limit int64) error {
	switch {
	case r.ContentLength > limit:
		return problem.New("CRD-113", "wanted at most %d bytes", limit)
	case r.ContentLength == 0:
		return problem.New("CRD-114", "the body is empty")
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return problem.New("CRD-114", "content type: wanted application/json, got %q", clip(r.Header.Get("Content-Type"), 80))
	}
	return nil
}
