package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// together is the stack's manifest for two users who both have to agree.
func (s *stack) together(t *testing.T, bob *tls.Certificate, lease string) []byte {
	t.Helper()
	var m map[string]any
	mustJSON(t, s.manifest(lease), &m)
	m["users"].(map[string]any)["bob"] = map[string]any{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bob.Certificate[0]})), "roles": []string{"operator"}}
	m["approvals"] = map[string]any{"updateManifest": 2}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestChangeTogether(t *testing.T) {
	s := newStack(t, stackConfig{})
	bobs, ctx := userCertificate(t), context.Background()
	first, err := s.dial(t, nil).SetManifest(ctx, s.together(t, bobs, "1h"), nil)
	if err != nil {
		t.Fatal(err)
	}
	alice, bob := s.dial(t, s.alice), s.dial(t, bobs)
	next := s.together(t, bobs, "2h")
	if r, err := alice.TryManifest(ctx, next, first.Digest); err != nil || !r.DryRun || r.Proposal == nil {
		t.Fatalf("dry run: got %+v, %v", r, err)
	}
	r, err := alice.SetManifest(ctx, next, first.Digest)
	if err != nil || r.Proposal == nil || r.DryRun {
		t.Fatalf("got %+v, %v, want a proposal", r, err)
	}
	all, err := bob.Proposals(ctx)
	if err != nil || len(all) != 1 || all[0].ProposedBy != "alice" || len(all[0].Approvals) != 0 {
		t.Fatalf("got %+v, %v, want one that nobody has signed", all, err)
	}
	p, document, err := bob.Proposal(ctx, r.Digest)
	if err != nil || !bytes.Equal(document, next) {
		t.Fatalf("got %s, %v, want the bytes", document, err)
	}
	if got, err := bob.Approve(ctx, p); err != nil || got.Settled || len(got.Proposal.Approvals) != 1 {
		t.Fatalf("bob: got %+v, %v", got, err)
	}
	if got, err := bob.WithdrawApproval(ctx, p); err != nil || len(got.Approvals) != 0 {
		t.Fatalf("withdrawn: got %+v, %v", got, err)
	}
	if _, err := bob.EndProposal(ctx, p); err != nil {
		t.Fatalf("rejected: %v", err)
	}
	if _, err := alice.Approve(ctx, p); problem.CodeOf(err) != "GOV-004" {
		t.Errorf("after it was rejected: got %v, want GOV-004", err)
	}
	if r, err = alice.SetManifest(ctx, next, first.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Approve(ctx, p); problem.CodeOf(err) != "GOV-006" {
		t.Errorf("under the id of the one before: got %v, want GOV-006", err)
	}
	if _, err := alice.Approve(ctx, *r.Proposal); err != nil {
		t.Fatal(err)
	}
	got, err := bob.Approve(ctx, *r.Proposal)
	if err != nil || !got.Settled || got.Set == nil || got.Set.Revision != 2 {
		t.Fatalf("got %+v, %v, want it in force", got, err)
	}
	h, err := s.dial(t, nil).History(ctx, 0, 0)
	if err != nil || len(h.Revisions) != 2 || !bytes.Equal(h.Revisions[1].Previous, first.Digest) || strings.Join(h.Revisions[1].ApprovedBy, " ") != "alice bob" {
		t.Errorf("got %+v, %v", h, err)
	}
	if m, err := s.dial(t, nil).ManifestRevision(ctx, 1); err != nil || !bytes.Equal(m.Digest, first.Digest) {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestProposalRequestsThatAreRefused(t *testing.T) {
	s := newStack(t, stackConfig{})
	bobs := userCertificate(t)
	first, err := s.dial(t, nil).SetManifest(context.Background(), s.together(t, bobs, "1h"), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.dial(t, s.alice).SetManifest(context.Background(), s.together(t, bobs, "2h"), first.Digest)
	if err != nil {
		t.Fatal(err)
	}
	path := "/v1/proposals/" + r.Digest.String()
	id := `"` + r.Proposal.ID.String() + `"`
	wrong := `{"signature":"AAAA"}`
	for name, c := range map[string]struct {
		method, path, match, body string
		user                      *tls.Certificate
		status                    int
		code                      problem.Code
	}{
		"list, nobody":         {"GET", "/v1/proposals", "", "", nil, 401, "CRD-040"},
		"list, stranger":       {"GET", "/v1/proposals", "", "", userCertificate(t), 401, "CRD-041"},
		"list, with a query":   {"GET", "/v1/proposals?x=1", "", "", s.alice, 400, "CRD-110"},
		"one, nobody":          {"GET", path, "", "", nil, 401, "CRD-040"},
		"document, nobody":     {"GET", path + "/document", "", "", nil, 401, "CRD-040"},
		"no digest":            {"GET", "/v1/proposals/zz", "", "", s.alice, 404, "GOV-004"},
		"another digest":       {"GET", "/v1/proposals/" + r.Proposal.ID.String(), "", "", s.alice, 404, "GOV-004"},
		"approve, nobody":      {"POST", path + "/approvals", id, wrong, nil, 401, "CRD-040"},
		"approve, no If-Match": {"POST", path + "/approvals", "", wrong, s.alice, 400, "GOV-012"},
		"approve, other id":    {"POST", path + "/approvals", `"` + r.Digest.String() + `"`, wrong, s.alice, 409, "GOV-006"},
		"approve, signature":   {"POST", path + "/approvals", id, wrong, s.alice, 403, "GOV-005"},
		"approve, empty":       {"POST", path + "/approvals", id, "", s.alice, 415, "CRD-114"},
		"approve, field":       {"POST", path + "/approvals", id, `{"sig":"AAAA"}`, s.alice, 400, "CRD-110"},
		"approve, large":       {"POST", path + "/approvals", id, strings.Repeat(" ", 5000), s.alice, 413, "CRD-113"},
		"end, nobody":          {"DELETE", path, id, "", nil, 401, "CRD-040"},
		"end, with a body":     {"DELETE", path, id, wrong, s.alice, 415, "CRD-114"},
		"end, no If-Match":     {"DELETE", path, "", "", s.alice, 400, "GOV-012"},
		"withdraw, none":       {"DELETE", path + "/approvals", id, "", s.alice, 404, "GOV-010"},
		"set, parameter":       {"PUT", "/v1/manifest?accepts=x", "", "{}", s.alice, 400, "CRD-110"},
		"set, dry run":         {"PUT", "/v1/manifest?dryRun=1", "", "{}", s.alice, 400, "CRD-110"},
		"history, limit":       {"GET", "/v1/manifest/history?limit=0", "", "", nil, 400, "CRD-110"},
		"revision, zero":       {"GET", "/v1/manifest?revision=0", "", "", nil, 404, "GOV-013"},
		"revision, word":       {"GET", "/v1/manifest?revision=x", "", "", nil, 400, "CRD-110"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(c.method, "https://"+s.client+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.body != "" || c.method == "POST" {
				req.Header.Set("Content-Type", "application/json")
			}
			if c.match != "" {
				req.Header.Set("If-Match", c.match)
			}
			resp, err := browse(t, true, c.user).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var d document
			if err := json.NewDecoder(resp.Body).Decode(&d); err != nil || resp.StatusCode != c.status || d.Code != c.code {
				t.Errorf("got %d %+v, %v, want %d %s", resp.StatusCode, d, err, c.status, c.code)
			}
		})
	}
	if all, err := s.dial(t, bobs).Proposals(context.Background()); err != nil || len(all) != 1 || len(all[0].Approvals) != 0 || all[0].Digest.String() != r.Digest.String() {
		t.Errorf("got %+v, %v, want it as it was", all, err)
	}
}
