package api

import (
	"net/http"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

const maxRotate = 1 << 10 // bytes of a request to replace a CA

// roots is for those who trust a root that was replaced. They need no evidence:
// each root has signed the next.
func (s *clientAPI) roots(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return answer(w, s.c.RootSteps())
}

func (s *clientAPI) cas(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return answer(w, s.c.CAs())
}

func (s *clientAPI) rotateCA(w http.ResponseWriter, r *http.Request) error {
	var req apiv1.RotateCA
	user, err := s.receive(w, r, maxRotate, &req)
	if err != nil {
		return err
	}
	cas, err := s.c.RotateCA(r.Context(), user, req.CA)
	if err != nil {
		return err
	}
	return answer(w, cas)
}
