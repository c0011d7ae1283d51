package differential

import (
	"crypto/x509"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/pcs"
	"github.com/google/go-tdx-guest/verify"
	"github.com/google/logger"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

// service answers the library's requests from a set of endorsements.
type service struct{ en attest.Endorsements }

// Get implements the library's trust.HTTPSGetter.
func (s service) Get(address string) (map[string][]string, []byte, error) {
	for part, doc := range map[string]struct{ kind, header string }{
		"/tcb?":        {attest.KindTCBInfo, pcs.TcbInfoIssuerChainPhrase},
		"/qe/identity": {attest.KindQEIdentity, pcs.SgxQeIdentityIssuerChainPhrase},
		"/pckcrl":      {attest.KindPCKCRL, pcs.SgxPckCrlIssuerChainPhrase},
		"RootCA":       {attest.KindRootCRL, ""},
	} {
		if !strings.Contains(address, part) {
			continue
		}
		it, ok := s.en.Get(doc.kind)
		if !ok {
			return nil, nil, fmt.Errorf("no %s", doc.kind)
		}
		header := map[string][]string{}
		if doc.header != "" {
			header[doc.header] = []string{url.QueryEscape(string(it.Chain))}
		}
		return header, it.Body, nil
	}
	return nil, nil, fmt.Errorf("unexpected request %s", address)
}

// tdxGuest has go-tdx-guest judge a case. Its panics are refusals.
func tdxGuest(c testCase) (a answer) {
	defer func() {
		if p := recover(); p != nil {
			a = answer{reason: fmt.Sprintf("panic: %v", p)}
		}
	}()
	quote, err := abi.QuoteToProto(c.evidence.Raw)
	if err != nil {
		return answer{reason: err.Error()}
	}
	o := &verify.Options{GetCollateral: true, CheckRevocations: true, Getter: service{c.endorsements},
		Now: &verify.TimeSet{PckCertChain: c.at, TcbInfo: c.at, QeIdentity: c.at, PckCrl: c.at, RootCaCrl: c.at}}
	root := c.root
	if root == nil {
		root = dcap.IntelRoot()
	}
	o.TrustedRoots = x509.NewCertPool()
	o.TrustedRoots.AddCert(root)
	if err := verify.TdxQuote(quote, o); err != nil {
		return answer{reason: err.Error()}
	}
	return answer{ok: true, status: attest.UpToDate}
}

// TestTDXGuest compares with go-tdx-guest, which accepts UpToDate alone.
func TestTDXGuest(t *testing.T) {
	logger.Init("go-tdx-guest", false, false, io.Discard)
	upToDate := intel(t)
	ours := func(c testCase) answer {
		a := upToDate(c)
		if a.ok && a.status != attest.UpToDate {
			return answer{reason: "status " + string(a.status)}
		}
		a.advisories = nil
		return a
	}
	compare(t, cases(t, attest.TDX), ours, tdxGuest, func(a, b answer) bool { return a.ok == b.ok }, []disagreement{
		{"refused: status (OutOfDate|Revoked)$", "accepted", "", "go-tdx-guest drops the platform's status where the TDX module has a version of 1 or higher"},
		{"validity", "accepted", "( -[0-9]+ days| of [a-z/0-9-]+)$", "go-tdx-guest accepts endorsements and CRLs of the future"},
		{"^refused: ATT-020 (pckCRL|rootCRL).signature$", "accepted", "_crl.der with zeros behind", "go-tdx-guest ignores bytes behind a CRL"},
		{"^refused: ATT-020 pckCRL.chain$", "accepted", "chain of pck_crl.der", "go-tdx-guest looks less closely at the chain of the PCK CRL"},
		{"accepted", "could not parse PEM formatted root certificate", "chain of .* with zeros behind", "zeros behind a PEM chain, as quotes have them, mean nothing here"},
	})
}
