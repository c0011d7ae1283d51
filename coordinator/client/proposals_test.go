package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestProposalIsWhatWasAskedFor has a coordinator show another proposal, other
// bytes, and another predecessor than its evidence names.
func TestProposalIsWhatWasAskedFor(t *testing.T) {
	document := []byte(`{"version":1}`)
	sum := sha256.Sum256(document)
	digest := attest.Hex(sum[:])
	for name, c := range map[string]struct {
		code   problem.Code
		change func(p *apiv1.Proposal, document *[]byte)
	}{
		"honest":            {"", func(*apiv1.Proposal, *[]byte) {}},
		"other bytes":       {"GOV-014", func(_ *apiv1.Proposal, document *[]byte) { *document = []byte(`{"version": 1}`) }},
		"other proposal":    {"GOV-014", func(p *apiv1.Proposal, _ *[]byte) { p.Digest = bytes.Repeat([]byte{1}, 32) }},
		"other predecessor": {"GOV-014", func(p *apiv1.Proposal, _ *[]byte) { p.Predecessor = bytes.Repeat([]byte{1}, 32) }},
		"an action under one": {"", func(p *apiv1.Proposal, _ *[]byte) {
			p.Kind, p.Predecessor = apiv1.ActionProposal, bytes.Repeat([]byte{1}, 32)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDeployment(t)
			d.set(t, "the manifest in force")
			p, shown := apiv1.Proposal{Digest: digest, ID: bytes.Repeat([]byte{2}, 32), Kind: apiv1.ManifestProposal, Predecessor: d.manifest, Expires: time.Now()}, document
			c.change(&p, &shown)
			cl, err := Dial(context.Background(), d.serve(t, proposing{d, p, shown}), options())
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			if _, got, err := cl.Proposal(context.Background(), digest); problem.CodeOf(err) != c.code || err == nil && !bytes.Equal(got, document) {
				t.Errorf("got %s, %v, want %q", got, err, c.code)
			}
		})
	}
}

// proposing is a coordinator with one proposal.
type proposing struct {
	*deployment
	p        apiv1.Proposal
	document []byte
}

func (d proposing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/document"):
		_, _ = w.Write(d.document)
	case strings.HasSuffix(r.URL.Path, "/approvals"):
		var req apiv1.ApproveRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		p := d.p
		p.Approvals = []apiv1.Approval{{Signature: req.Signature}}
		_ = json.NewEncoder(w).Encode(apiv1.ApproveResult{Proposal: p})
	case strings.HasPrefix(r.URL.Path, "/v1/proposals/"):
		_ = json.NewEncoder(w).Encode(d.p)
	default:
		d.deployment.ServeHTTP(w, r)
	}
}

// TestApproveSignsForThisDeployment checks the signature that is sent with the
// certificate of the one who sends it.
func TestApproveSignsForThisDeployment(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	d := newDeployment(t)
	d.set(t, "the manifest in force")
	p := apiv1.Proposal{Digest: bytes.Repeat([]byte{1}, 32), ID: bytes.Repeat([]byte{2}, 32), Kind: apiv1.ManifestProposal, Predecessor: d.manifest, Expires: time.Now().UTC()}
	addr := d.serve(t, proposing{d, p, nil})
	o := options()
	nobody, err := Dial(context.Background(), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	if _, err := nobody.Approve(context.Background(), p); problem.CodeOf(err) != "CRD-015" {
		t.Errorf("nobody: got %v, want CRD-015", err)
	}
	o.Certificate = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
	user, err := Dial(context.Background(), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	got, err := user.Approve(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	text := apiv1.ApprovalText(user.Verified().Statement.TrustDomain, p)
	if err := apiv1.VerifyApproval(cert, text, got.Proposal.Approvals[0].Signature); err != nil {
		t.Error(err)
	}
}
