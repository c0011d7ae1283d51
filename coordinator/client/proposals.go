package client

import (
	"context"
	"crypto"
	"crypto/sha256"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// SetManifest puts raw in force, or proposes it where others have to agree: then
// the result has a proposal, which Approve signs. ifMatch is the digest of the
// manifest that it replaces, empty only for the first; accept are the risks that
// are accepted, by name.
func (c *Client) SetManifest(ctx context.Context, raw []byte, ifMatch attest.Hex, accept ...string) (apiv1.SetResult, error) {
	return c.putManifest(ctx, raw, ifMatch, url.Values{}, accept)
}

// TryManifest asks what SetManifest would do. Nothing is written but a refusal.
func (c *Client) TryManifest(ctx context.Context, raw []byte, ifMatch attest.Hex, accept ...string) (apiv1.SetResult, error) {
	return c.putManifest(ctx, raw, ifMatch, url.Values{"dryRun": {"true"}}, accept)
}

func (c *Client) putManifest(ctx context.Context, raw []byte, ifMatch attest.Hex, q url.Values, accept []string) (apiv1.SetResult, error) {
	var out apiv1.SetResult
	header := http.Header{"Content-Type": {"application/json"}}
	if len(ifMatch) > 0 {
		header.Set("If-Match", quoted(ifMatch))
	}
	setText(q, "accept", strings.Join(accept, ","))
	body, err := c.do(ctx, call{method: http.MethodPut, path: "/v1/manifest", query: q, header: header, body: raw})
	if err != nil {
		return out, err
	}
	return out, decode(body, &out)
}

func quoted(tag attest.Hex) string { return `"` + tag.String() + `"` }

// ManifestRevision returns a manifest that is or was in force.
func (c *Client) ManifestRevision(ctx context.Context, number int) (apiv1.Manifest, error) {
	return get[apiv1.Manifest](ctx, c, "/v1/manifest", url.Values{"revision": {strconv.Itoa(number)}})
}

// History returns revisions of the manifest from one on, in order.
func (c *Client) History(ctx context.Context, from, limit int) (apiv1.History, error) {
	q := url.Values{}
	setNumber(q, "from", uint64(max(from, 0)))
	setNumber(q, "limit", uint64(max(limit, 0)))
	return get[apiv1.History](ctx, c, "/v1/manifest/history", q)
}

// Proposals returns the changes that wait for approvals. It needs a user's
// certificate.
func (c *Client) Proposals(ctx context.Context) ([]apiv1.Proposal, error) {
	page, err := get[apiv1.Proposals](ctx, c, "/v1/proposals", nil)
	return page.Proposals, err
}

// Proposal returns one change that waits for approvals, with the bytes that are
// proposed. What the coordinator says of them is checked: that they have the
// digest that was asked for, and that a manifest replaces the one that the
// coordinator's evidence names (GOV-014).
func (c *Client) Proposal(ctx context.Context, digest attest.Hex) (apiv1.Proposal, []byte, error) {
	path := "/v1/proposals/" + digest.String()
	p, err := get[apiv1.Proposal](ctx, c, path, nil)
	if err != nil {
		return p, nil, err
	}
	document, err := c.do(ctx, call{method: http.MethodGet, path: path + "/document"})
	if err != nil {
		return p, nil, err
	}
	sum := sha256.Sum256(document)
	switch {
	case !slices.Equal(sum[:], digest) || !slices.Equal(p.Digest, digest):
		return p, nil, problem.New("GOV-014", "asked for the proposal %s, and got %s with a document of %s", digest, p.Digest, attest.Hex(sum[:]))
	case p.Kind == apiv1.ManifestProposal && !slices.Equal(p.Predecessor, c.Verified().Statement.Manifest):
		return p, nil, problem.New("GOV-014", "the proposal replaces %s, and the coordinator's evidence names %s", p.Predecessor, c.Verified().Statement.Manifest)
	}
	return p, document, nil
}

// Approve signs a proposal with the key of the client's certificate. The caller
// has looked at what it does: see Proposal.
func (c *Client) Approve(ctx context.Context, p apiv1.Proposal) (apiv1.ApproveResult, error) {
	if c.o.Certificate == nil {
		return apiv1.ApproveResult{}, problem.New("CRD-015", "an approval needs a user's certificate")
	}
	key, ok := c.o.Certificate.PrivateKey.(crypto.Signer)
	if !ok {
		return apiv1.ApproveResult{}, problem.New("CRD-015", "a key of type %T cannot sign", c.o.Certificate.PrivateKey)
	}
	signature, err := apiv1.SignApproval(key, apiv1.ApprovalText(c.Verified().Statement.TrustDomain, p))
	if err != nil {
		return apiv1.ApproveResult{}, problem.Because(err, "GOV-005", "signing the proposal")
	}
	return send[apiv1.ApproveResult](ctx, c, http.MethodPost, proposalPath(p)+"/approvals", ifID(p), apiv1.ApproveRequest{Signature: signature})
}

// WithdrawApproval takes one's own approval of a proposal back.
func (c *Client) WithdrawApproval(ctx context.Context, p apiv1.Proposal) (apiv1.Proposal, error) {
	return c.remove(ctx, proposalPath(p)+"/approvals", p)
}

// EndProposal withdraws one's own proposal, or rejects somebody else's.
func (c *Client) EndProposal(ctx context.Context, p apiv1.Proposal) (apiv1.Proposal, error) {
	return c.remove(ctx, proposalPath(p), p)
}

func (c *Client) remove(ctx context.Context, path string, p apiv1.Proposal) (apiv1.Proposal, error) {
	var out apiv1.Proposal
	body, err := c.do(ctx, call{method: http.MethodDelete, path: path, header: ifID(p)})
	if err != nil {
		return out, err
	}
	return out, decode(body, &out)
}

func proposalPath(p apiv1.Proposal) string { return "/v1/proposals/" + p.Digest.String() }

func ifID(p apiv1.Proposal) http.Header { return http.Header{"If-Match": {quoted(p.ID)}} }
