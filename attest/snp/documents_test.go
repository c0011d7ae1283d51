package snp_test

import (
	"bytes"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

// TestVerifyDocuments judges real certificates without a report.
func TestVerifyDocuments(t *testing.T) {
	v := snp.NewVerifier().(endorse.DocumentVerifier)
	for _, name := range []string{"snp/virtee-milan-v2-vcek", "snp/msft-turin-v5-vcek", "snp/azure-genoa-hcl", "snp/trustee-vlek"} {
		set := attesttest.Load(t, name).Endorsements
		steps := v.VerifyDocuments(set)
		if len(steps) != len(set.Items()) {
			t.Errorf("%s: got %d steps, want one for each of %d documents", name, len(steps), len(set.Items()))
		}
		for _, s := range steps {
			if !s.OK {
				t.Errorf("%s: %+v, want it to hold", name, s)
			}
		}
		for _, it := range set.Items() {
			bad := it
			bad.Body = bytes.Clone(it.Body)
			bad.Body[len(bad.Body)*3/4] ^= 1
			items := append(append([]attest.Endorsement{}, set.Items()...), bad)
			refused := false
			for _, s := range v.VerifyDocuments(attest.NewEndorsements(items...)) {
				refused = refused || !s.OK && s.Source == it.Kind
			}
			if !refused {
				t.Errorf("%s: %s damaged, and it holds", name, it.Kind)
			}
		}
	}
	crl := attest.NewEndorsements(attest.Endorsement{Kind: attest.KindAMDCRL, Body: []byte("?")})
	if steps := v.VerifyDocuments(crl); len(steps) != 1 || steps[0].OK {
		t.Errorf("a damaged CRL: got %+v, want one step that fails", steps)
	}
}
