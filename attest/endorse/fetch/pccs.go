package fetch

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Intel's own service has the CRL of the root elsewhere (Intel SGX PCK
// Certificate and CRL Profile Specification).
const (
	intelDomain  = "trustedservices.intel.com"
	intelRootCRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
)

// PCCS is a source with the interface of Intel's provisioning certification
// service, version 4: Intel's own, or a cache of it.
type PCCS struct {
	client  *Client
	root    *Client // where the CRL of the root is, if not at client
	rootURL string
	query   url.Values // for TCB info and identities
}

// NewPCCS returns the source at an address such as https://pccs.example:8081 or
// https://api.trustedservices.intel.com. Its query, if any, is update=standard,
// update=early, or tcbEvaluationDataNumber=N, and goes with each question for
// TCB info and identities.
func NewPCCS(c ClientConfig) (*PCCS, error) {
	client, err := newClient(c)
	if err != nil {
		return nil, err
	}
	p := &PCCS{client: client, query: client.base.Query()}
	for name := range p.query {
		if name != "update" && name != "tcbEvaluationDataNumber" || len(p.query) > 1 {
			return nil, fmt.Errorf("%.200q: the query may be update=standard, update=early or tcbEvaluationDataNumber=N", client.name())
		}
	}
	base := *client.base
	base.RawQuery = ""
	base.Path = strings.TrimSuffix(strings.TrimSuffix(base.Path, "/"), "/sgx/certification/v4")
	client.base = &base
	p.rootURL = base.JoinPath("sgx/certification/v4/rootcacrl").String()
	if host := base.Hostname(); host == intelDomain || strings.HasSuffix(host, "."+intelDomain) {
		elsewhere := c
		elsewhere.URL = intelRootCRL
		if p.root, err = newClient(elsewhere); err != nil {
			return nil, err
		}
		p.rootURL = intelRootCRL
	}
	return p, nil
}

// Name implements Source.
func (p *PCCS) Name() string { return p.client.name() }

// Fetch implements Source. A document that cannot be had does not keep the
// others from being asked for.
func (p *PCCS) Fetch(ctx context.Context, n endorse.Need, _ attest.Endorsements) (attest.Endorsements, error) {
	tee := n.TEE.Shape()
	if tee != attest.SGX && tee != attest.TDX {
		return attest.Endorsements{}, nil
	}
	var items []attest.Endorsement
	var errs []error
	for _, get := range []func(context.Context, endorse.Need) (attest.Endorsement, error){p.tcbInfo, p.identity, p.pckCRL, p.rootCRL} {
		it, err := get(ctx, n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		items = append(items, it)
	}
	return attest.NewEndorsements(items...), errors.Join(errs...)
}

// tcbInfo asks by FMSPC. Services differ in which letter case they know.
func (p *PCCS) tcbInfo(ctx context.Context, n endorse.Need) (attest.Endorsement, error) {
	fmspc := n.FMSPC.String()
	it, err := p.signed(ctx, n, attest.KindTCBInfo, "tcb", fmspc)
	if problem.CodeOf(err) == "ATT-067" && strings.ToUpper(fmspc) != fmspc {
		it, err = p.signed(ctx, n, attest.KindTCBInfo, "tcb", strings.ToUpper(fmspc))
	}
	return it, err
}

func (p *PCCS) identity(ctx context.Context, n endorse.Need) (attest.Endorsement, error) {
	return p.signed(ctx, n, attest.KindQEIdentity, "qe/identity", "")
}

// chainHeaders name the header with a document's issuer chain, current name
// first. Header names are compared without case.
var chainHeaders = map[string][]string{
	attest.KindTCBInfo:    {"TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"},
	attest.KindQEIdentity: {"SGX-Enclave-Identity-Issuer-Chain", "SGX-QE-Identity-Issuer-Chain", "Enclave-Identity-Issuer-Chain"},
	attest.KindPCKCRL:     {"SGX-PCK-CRL-Issuer-Chain", "PCK-CRL-Issuer-Chain"},
}

// signed asks for a document with its signer's chain.
func (p *PCCS) signed(ctx context.Context, n endorse.Need, kind, path, fmspc string) (attest.Endorsement, error) {
	query := url.Values{}
	for k, v := range p.query {
		query[k] = slices.Clone(v)
	}
	if fmspc != "" {
		query.Set("fmspc", fmspc)
	}
	u := p.client.base.JoinPath(string(n.TEE.Shape()), "certification/v4", path)
	u.RawQuery = query.Encode()
	r, err := p.client.get(ctx, u.String())
	if err != nil {
		return attest.Endorsement{}, err
	}
	chain, err := p.chain(r, kind)
	return attest.Endorsement{Kind: kind, Body: r.body, Chain: chain}, err
}

// chain reads the issuer chain beside a document: PEM, URL-escaped.
func (p *PCCS) chain(r reply, kind string) ([]byte, error) {
	for _, name := range chainHeaders[kind] {
		value := r.header.Get(name)
		if value == "" {
			continue
		}
		unescape := url.PathUnescape
		if strings.Contains(value, "BEGIN+CERTIFICATE") { // as in a form, where + is a space
			unescape = url.QueryUnescape
		}
		chain, err := unescape(value)
		if err != nil {
			return nil, problem.Because(err, "ATT-065", "%s: header %s", p.Name(), name)
		}
		return []byte(chain), nil
	}
	return nil, problem.New("ATT-065", "%s sent %s without its issuer chain", p.Name(), kind)
}

func (p *PCCS) pckCRL(ctx context.Context, n endorse.Need) (attest.Endorsement, error) {
	u := p.client.base.JoinPath("sgx/certification/v4/pckcrl")
	u.RawQuery = url.Values{"ca": {n.CA}, "encoding": {"der"}}.Encode()
	r, err := p.client.get(ctx, u.String())
	if err != nil {
		return attest.Endorsement{}, err
	}
	chain, err := p.chain(r, attest.KindPCKCRL)
	if err != nil {
		return attest.Endorsement{}, err
	}
	return p.crl(attest.KindPCKCRL, r, chain)
}

func (p *PCCS) rootCRL(ctx context.Context, _ endorse.Need) (attest.Endorsement, error) {
	client := p.client
	if p.root != nil {
		client = p.root
	}
	r, err := client.get(ctx, p.rootURL)
	if err != nil {
		return attest.Endorsement{}, err
	}
	return p.crl(attest.KindRootCRL, r, nil)
}

// crl reads a CRL in whichever encoding it came: DER, PEM, or hexadecimal DER as
// caches send it.
func (p *PCCS) crl(kind string, r reply, chain []byte) (attest.Endorsement, error) {
	der := r.body
	text := bytes.Trim(r.body, "\" \t\r\n")
	if block, _ := pem.Decode(text); block != nil {
		der = block.Bytes
	} else if plain, err := hex.DecodeString(string(text)); err == nil {
		der = plain
	}
	if _, err := x509.ParseRevocationList(der); err != nil {
		return attest.Endorsement{}, problem.Because(err, "ATT-065", "%s: %s", p.Name(), kind)
	}
	return attest.Endorsement{Kind: kind, Body: der, Chain: chain}, nil
}
