package api

import (
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// setManifest refuses what can be refused before the body is read: its size,
// its type, a malformed If-Match, and nobody who wants to replace a manifest.
func (s *clientAPI) setManifest(w http.ResponseWriter, r *http.Request) error {
	req, err := s.preconditions(r)
	if err == nil {
		err = setOptions(r, &req)
	}
	if err == nil {
		req.Raw, err = s.body(w, r)
	}
	if err != nil {
		unwanted(w, r)
		return err
	}
	result, err := s.c.SetManifest(r.Context(), req)
	if err != nil {
		return err
	}
	if result.Proposal != nil && !result.DryRun {
		w.Header().Set("Location", "/v1/proposals/"+result.Digest.String())
		return answerWith(w, http.StatusAccepted, result)
	}
	if !result.DryRun {
		w.Header().Set("ETag", etag(result.Digest))
	}
	return answer(w, result)
}

func (s *clientAPI) preconditions(r *http.Request) (coordinator.SetManifestRequest, error) {
	var req coordinator.SetManifestRequest
	if r.ContentLength > manifest.MaxSize {
		return req, tooLarge()
	}
	if r.ContentLength == 0 {
		return req, problem.New("CRD-114", "the body is empty; it is the manifest")
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return req, problem.New("CRD-114", "content type: wanted application/json, got %q", clip(r.Header.Get("Content-Type"), 80))
	}
	var err error
	if req.IfMatch, err = ifMatch(r); err != nil {
		return req, err
	}
	st, err := s.c.Status(r.Context())
	if err != nil {
		return req, err
	}
	if len(r.TLS.PeerCertificates) > 0 {
		req.Principal, err = s.c.Authenticate(r.TLS.PeerCertificates)
	}
	switch {
	case len(st.Manifest) > 0 && req.Principal == nil && err == nil:
		err = problem.New("CRD-015", "a manifest is in force, and the connection has no user's certificate")
	case len(st.Manifest) == 0 && req.Principal == nil && s.c.Owned():
		// Not after the body: strangers would keep the owner's from being read.
		err = problem.New("CRD-017", "this coordinator was started with an owner, and the request is not the owner's")
	case len(st.Manifest) == 0 && problem.CodeOf(err) == "CRD-041":
		err = nil // before the first manifest there are no users: the core decides
	}
	return req, err
}

func tooLarge() error {
	return problem.New("CRD-113", "wanted at most %d bytes of manifest", manifest.MaxSize)
}

// body reads a manifest. Few are read at a time, so that bodies cannot fill the
// memory.
func (s *clientAPI) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	raw, err := s.read(w, r, manifest.MaxSize)
	switch {
	case err != nil:
		return nil, err
	case raw == nil:
		return nil, tooLarge()
	case len(raw) == 0:
		return nil, problem.New("CRD-114", "the body is empty; it is the manifest")
	}
	return raw, nil
}

// maxSmall is the size up to which bodies are read however many come: whoever
// sends slowly must not keep others from revoking or recovering.
const maxSmall = 16 << 10

// read reads a body of at most limit bytes; of a longer one it gives nil. Of
// those that may be larger than maxSmall, few are read at a time.
func (s *clientAPI) read(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if limit > maxSmall {
		select {
		case s.bodies <- struct{}{}:
			defer func() { <-s.bodies }()
		default:
			return nil, problem.New("CRD-115", "%d documents are being received", cap(s.bodies))
		}
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, nil
	case err != nil:
		return nil, problem.Because(err, "CRD-110", "reading the body")
	}
	return raw, nil
}
