package api

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	// maxUpload is a sealed value in base64, in JSON.
	maxUpload = (secrets.MaxValue+64)*4/3 + 1<<10
	// maxSecretRequest bounds the other requests about secrets.
	maxSecretRequest = 4 << 10
)

func (s *clientAPI) secretList(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "after", "limit")
	if err != nil {
		return err
	}
	n, err := limit(q, 100)
	if err != nil {
		return err
	}
	page, err := s.c.Secrets(r.Context(), s.user(r), q.Get("after"), n)
	if err != nil {
		return err
	}
	return answer(w, page)
}

func (s *clientAPI) secret(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	one, err := s.c.Secret(r.Context(), s.user(r), r.PathValue("name"))
	if err != nil {
		return err
	}
	w.Header().Set("ETag", strconv.Quote(strconv.FormatUint(one.Version, 10)))
	return answer(w, one)
}

// setSecret refuses who may not supply the secret before its value is read.
func (s *clientAPI) setSecret(w http.ResponseWriter, r *http.Request) error {
	req := coordinator.SetSecretRequest{Name: r.PathValue("name")}
	var err error
	if req.User, err = s.mayReceive(r, maxUpload); err == nil {
		if req.Follows, err = follows(r); err == nil {
			err = s.c.MaySetSecret(r.Context(), req.User, req.Name)
		}
	}
	if err != nil {
		unwanted(w, r)
		return err
	}
	var in apiv1.SecretUpload
	if _, err := s.receive(w, r, maxUpload, &in); err != nil {
		return err
	}
	req.Sealed = in.Sealed
	out, err := s.c.SetSecret(r.Context(), req)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", strconv.Quote(strconv.FormatUint(out.Version, 10)))
	return answer(w, out)
}

func (s *clientAPI) revealSecret(w http.ResponseWriter, r *http.Request) error {
	var in apiv1.RevealRequest
	user, err := s.receive(w, r, maxSecretRequest, &in)
	if err != nil {
		return err
	}
	out, err := s.c.RevealSecret(r.Context(), coordinator.RevealSecretRequest{Name: r.PathValue("name"), Instance: in.Instance, Key: in.Key, User: user})
	if err != nil {
		return err
	}
	return answer(w, out)
}

func (s *clientAPI) rotateSecret(w http.ResponseWriter, r *http.Request) error {
	var in apiv1.RotateSecretRequest
	user, err := s.receive(w, r, maxSecretRequest, &in)
	if err != nil {
		return err
	}
	out, err := s.c.RotateSecret(r.Context(), user, r.PathValue("name"), in.Instance)
	if err != nil {
		return err
	}
	return answer(w, out)
}

// follows reads which version a value follows from If-Match.
func follows(r *http.Request) (uint64, error) {
	values := r.Header.Values("If-Match")
	if len(values) == 0 {
		return 0, problem.New("SEC-012", "the request has no If-Match")
	}
	tag, quoted := strings.CutPrefix(values[0], `"`)
	tag, closed := strings.CutSuffix(tag, `"`)
	n, err := strconv.ParseUint(tag, 10, 64)
	if len(values) > 1 || !quoted || !closed || err != nil || strconv.FormatUint(n, 10) != tag {
		return 0, problem.New("CRD-110", "header If-Match: wanted a version in quotes, got %q", clip(strings.Join(values, ", "), 80))
	}
	return n, nil
}
