package evidence

import (
	"crypto/x509"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Options say how to judge a set. The zero Options with a time judge it by
// Intel's root, any measurement, no debug, UpToDate only.
type Options struct {
	At time.Time
	// Root is the trust anchor; nil means Intel's.
	Root *x509.Certificate
	// Package is the software that is accepted; nil accepts any measurement,
	// but no debug enclave or guest.
	Package *attest.Package
	// Platform is the floor of the hardware.
	Platform attest.Platform
	// Binding is what the report data must be; nil if nobody knows.
	Binding *attest.Binding
}

// Explain judges a set. Where the set has no CRL at all, revocation is not
// demanded, and the verdict says that it was not checked. A root that cannot be
// a trust anchor is an error with code ATT-042.
func Explain(s Set, o Options) (attest.Verdict, error) {
	if o.Root == nil {
		o.Root = dcap.IntelRoot()
	}
	verifiers := make(attest.Verifiers)
	for _, tee := range []attest.TEE{attest.SGX, attest.TDX} {
		v, err := dcap.New(dcap.Config{TEE: tee, Root: o.Root})
		if err != nil {
			return attest.Verdict{}, problem.Because(err, "ATT-042", "root %q", o.Root.Subject.CommonName)
		}
		verifiers[tee] = v
	}
	p := attest.Policy{Platform: o.Platform}
	if o.Package != nil {
		p.Package = *o.Package
	} else {
		p.Package = attest.Package{SGX: &attest.SGXReference{AllowAny: true}, TDX: &attest.TDXReference{AllowAny: true}}
	}
	p.Platform.Endorsements.AllowUncheckedRevocation = !s.HasCRL
	if o.Binding != nil {
		return attest.Judge(verifiers, s.Evidence, *o.Binding, s.Endorsements, p, o.At), nil
	}
	return attest.JudgeUnbound(verifiers, s.Evidence, s.Endorsements, p, o.At), nil
}
