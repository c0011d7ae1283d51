package dcap_test

import (
	"bytes"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

// TestVerifyDocuments judges real collateral without a quote; each document that
// is damaged fails by itself.
func TestVerifyDocuments(t *testing.T) {
	v, err := dcap.New(dcap.Config{TEE: attest.TDX, Root: dcap.IntelRoot()})
	if err != nil {
		t.Fatal(err)
	}
	set := attesttest.Load(t, "tdx/phala-v4-b0c0").Endorsements
	if steps := v.VerifyDocuments(set); len(steps) != 4 || failed(steps) != "" {
		t.Errorf("got %+v, want four steps that hold", steps)
	}
	if steps := v.VerifyDocuments(attest.Endorsements{}); len(steps) != 0 {
		t.Errorf("no documents: got %+v", steps)
	}
	for _, it := range set.Items() {
		bad := it
		bad.Body = bytes.Clone(it.Body)
		bad.Body[len(bad.Body)/2] ^= 1
		items := append(append([]attest.Endorsement{}, set.Items()...), bad)
		if got := failed(v.VerifyDocuments(attest.NewEndorsements(items...))); got != it.Kind {
			t.Errorf("%s damaged: %q failed", it.Kind, got)
		}
	}
	foreign := attesttest.Load(t, "synthetic/tdx/synthetic-ok").Endorsements
	for _, s := range v.VerifyDocuments(foreign) {
		if s.OK {
			t.Errorf("%s of another PKI holds", s.Source)
		}
	}
}

func failed(steps []attest.Step) string {
	for _, s := range steps {
		if !s.OK {
			return s.Source
		}
	}
	return ""
}
