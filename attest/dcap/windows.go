package dcap

import (
	"bytes"
	"crypto/x509"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

var fixRevoked = attest.Fix{Who: attest.Nobody, How: "the vendor has revoked it: move to another machine"}

// revocation looks every certificate up in the CRL that covers it.
func (r *run) revocation() {
	look := func(field, kind string, list *pki.CRL, cert *x509.Certificate) {
		if list == nil || cert == nil {
			return
		}
		s := attest.Step{Code: attest.CodeRevoked, Field: field, Want: "not revoked", Got: "not revoked", Source: kind, Fix: fixRevoked}
		revoked := list.Revokes(cert)
		if revoked {
			s.Got = cert.Subject.CommonName + " is revoked"
		}
		r.check(s, !revoked)
	}
	if r.chain != nil {
		look("pck.revocation", attest.KindPCKCRL, r.col.pckCRL, r.chain.leaf)
		look("ca.revocation", attest.KindRootCRL, r.col.rootCRL, r.chain.ca)
	}
	look("tcbInfo.revocation", attest.KindRootCRL, r.col.rootCRL, r.col.tcbSigner)
	look("qeIdentity.revocation", attest.KindRootCRL, r.col.rootCRL, r.col.qeSigner)
}

// windows judges every validity pki.Window by the time of the verification.
func (r *run) windows() {
	look := func(code, field, source string, w pki.Window) {
		r.check(attest.Step{Code: code, Field: field, Want: "valid " + w.String(), Got: "at " + pki.Stamp(r.at), Source: source, Fix: fixClock,
			Ended: w.Ended(r.at)}, w.Contains(r.at))
	}
	if r.chain != nil {
		look(attest.CodeCertWindow, "pck.validity", "PCK certificate", r.chain.valid)
	}
	if r.col.tcb != nil {
		look(attest.CodeCertWindow, "tcbInfo.signerValidity", attest.KindTCBInfo, pki.Validity(r.col.tcbSigner))
		look(attest.CodeWindow, "tcbInfo.validity", attest.KindTCBInfo, r.col.tcb.valid())
	}
	if r.col.qe != nil {
		look(attest.CodeCertWindow, "qeIdentity.signerValidity", attest.KindQEIdentity, pki.Validity(r.col.qeSigner))
		look(attest.CodeWindow, "qeIdentity.validity", attest.KindQEIdentity, r.col.qe.valid())
	}
	if r.col.pckCRL != nil {
		look(attest.CodeCRLWindow, "pckCRL.validity", attest.KindPCKCRL, r.col.pckCRL.Valid)
	}
	if r.col.rootCRL != nil {
		look(attest.CodeCRLWindow, "rootCRL.validity", attest.KindRootCRL, r.col.rootCRL.Valid)
	}
}

// bounds fills in what does not depend on a TCB level: how long the claims
// last and which machine made them. The root CA's CRL is issued once a year,
// so it bounds the end but not the age.
func (r *run) bounds(t *attest.TCBClaims) {
	t.Advisories = []string{}
	issued := func(at time.Time) {
		if t.OldestIssue.IsZero() || at.Before(t.OldestIssue) {
			t.OldestIssue = at
		}
	}
	ends := func(at time.Time) {
		if t.NextUpdate.IsZero() || at.Before(t.NextUpdate) {
			t.NextUpdate = at
		}
	}
	if c := r.col.tcb; c != nil {
		issued(c.IssueDate)
		t.Issued.TCBInfo = c.IssueDate
		ends(c.NextUpdate)
		ends(r.col.tcbSigner.NotAfter)
		t.EvaluationNumber = c.Evaluation
	}
	if c := r.col.qe; c != nil {
		issued(c.IssueDate)
		t.Issued.QEIdentity = c.IssueDate
		ends(c.NextUpdate)
		ends(r.col.qeSigner.NotAfter)
		if r.col.tcb == nil || c.Evaluation < t.EvaluationNumber {
			t.EvaluationNumber = c.Evaluation
		}
	}
	if c := r.col.pckCRL; c != nil {
		issued(c.Valid.From)
		t.Issued.CRL = c.Valid.From
		ends(c.Valid.Until)
	}
	if c := r.col.rootCRL; c != nil {
		ends(c.Valid.Until)
	}
	if r.chain == nil {
		return
	}
	p := r.chain.platform
	t.FMSPC, t.PCEID, t.PPID, t.PlatformInstance = bytes.Clone(p.fmspc), bytes.Clone(p.pceID), bytes.Clone(p.ppid), bytes.Clone(p.instance)
	t.PCKSerial, t.PCKIssuer, t.NotAfter = r.chain.serial, r.chain.name, r.chain.valid.Until
	if pck, root := r.col.pckCRL, r.col.rootCRL; pck != nil && root != nil {
		t.RevocationChecked = pck.Valid.Contains(r.at) && root.Valid.Contains(r.at)
		t.CRLsEnded = !t.RevocationChecked && usable(pck.Valid, r.at) && usable(root.Valid, r.at)
	}
}

// usable reports whether a window has begun, over or not.
func usable(w pki.Window, at time.Time) bool { return w.Contains(at) || !w.Ended(at).IsZero() }
