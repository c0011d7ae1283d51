package api

import (
	"net/http"
	"strings"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxApproval is the size limit of an approval, in bytes.
const maxApproval = 4 << 10

// setOptions reads what a request to set a manifest wants besides: the risks
// that it accepts, with commas between them, and a dry run.
func setOptions(r *http.Request, req *coordinator.SetManifestRequest) error {
	q, err := query(r, "accept", "dryRun")
	if err != nil {
		return err
	}
	if risks := q.Get("accept"); risks != "" {
		req.Accept = strings.Split(risks, ",")
	}
	switch text := q.Get("dryRun"); {
	case !q.Has("dryRun") || text == "false":
	case text == "true":
		req.DryRun = true
	default:
		return problem.New("CRD-110", "parameter %q: wanted true or false, got %q", "dryRun", clip(text, 40))
	}
	return nil
}

// revision answers with a manifest that is or was in force. It is read from the
// disk and parsed, so for strangers it counts as a statement.
func (s *clientAPI) revision(w http.ResponseWriter, r *http.Request, number uint64) error {
	if s.user(r) == nil {
		if err := s.mayAsk(w, r); err != nil {
			return err
		}
	}
	m, err := s.c.ManifestRevision(r.Context(), int(number))
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(m.Digest))
	return answer(w, m)
}

func (s *clientAPI) history(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "from", "limit")
	if err != nil {
		return err
	}
	n, err := limit(q, 100)
	if err != nil {
		return err
	}
	from, err := number(q, "from", 0, 1<<31-1)
	if err != nil {
		return err
	}
	page, err := s.c.History(r.Context(), int(from), n)
	if err != nil {
		return err
	}
	return answer(w, page)
}

// proposals and what belongs to one are for users of the manifest.
func (s *clientAPI) proposals(w http.ResponseWriter, r *http.Request) error {
	if err := s.forUsers(r); err != nil {
		return err
	}
	page, err := s.c.Proposals(r.Context())
	if err != nil {
		return err
	}
	return answer(w, page)
}

func (s *clientAPI) forUsers(r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	_, err := s.authenticated(r)
	return err
}

func (s *clientAPI) proposal(w http.ResponseWriter, r *http.Request) error {
	if err := s.forUsers(r); err != nil {
		return err
	}
	p, err := s.c.Proposal(r.Context(), r.PathValue("digest"))
	if err != nil {
		return err
	}
	return answerProposal(w, p, p)
}

func (s *clientAPI) proposedDocument(w http.ResponseWriter, r *http.Request) error {
	if err := s.forUsers(r); err != nil {
		return err
	}
	document, err := s.c.ProposedDocument(r.Context(), r.PathValue("digest"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	write(w, http.StatusOK, document)
	return nil
}

func (s *clientAPI) approve(w http.ResponseWriter, r *http.Request) error {
	req, err := proposalRequest(r)
	if err != nil {
		unwanted(w, r)
		return err
	}
	var approval apiv1.ApproveRequest
	if req.Principal, err = s.receive(w, r, maxApproval, &approval); err != nil {
		return err
	}
	result, err := s.c.Approve(r.Context(), req, approval.Signature)
	if err != nil {
		return err
	}
	return answerProposal(w, result.Proposal, result)
}

func (s *clientAPI) withdrawApproval(w http.ResponseWriter, r *http.Request) error {
	req, err := s.deletion(r)
	if err != nil {
		return err
	}
	p, err := s.c.Withdraw(r.Context(), req)
	if err != nil {
		return err
	}
	return answerProposal(w, p, p)
}

func (s *clientAPI) endProposal(w http.ResponseWriter, r *http.Request) error {
	req, err := s.deletion(r)
	if err != nil {
		return err
	}
	p, err := s.c.EndProposal(r.Context(), req)
	if err != nil {
		return err
	}
	return answer(w, p)
}

// deletion reads a user's request to take something of a proposal away.
func (s *clientAPI) deletion(r *http.Request) (coordinator.ProposalRequest, error) {
	req, err := proposalRequest(r)
	if err != nil {
		return req, err
	}
	if _, err := query(r); err != nil {
		return req, err
	}
	if r.ContentLength != 0 {
		return req, problem.New("CRD-114", "DELETE takes no body")
	}
	req.Principal, err = s.authenticated(r)
	return req, err
}

func proposalRequest(r *http.Request) (coordinator.ProposalRequest, error) {
	id, err := ifMatch(r)
	return coordinator.ProposalRequest{Digest: r.PathValue("digest"), IfMatch: id}, err
}

func answerProposal(w http.ResponseWriter, p apiv1.Proposal, v any) error {
	w.Header().Set("ETag", etag(p.ID))
	return answer(w, v)
}
