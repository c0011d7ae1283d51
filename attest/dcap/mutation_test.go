package dcap_test

import (
	"bytes"
	"encoding/pem"
	"slices"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

func firstFailed(steps []attest.Step) string {
	for _, s := range steps {
		if !s.OK {
			return s.Code
		}
	}
	return ""
}

// TestEndorsementMutations changes every byte of real endorsements and of
// their chains. What is outside of the signed part (JSON punctuation around
// it, white space in PEM) must be damaged so that it no longer parses, or mean
// nothing.
func TestEndorsementMutations(t *testing.T) {
	for _, name := range []string{"sgx/automata-v3-606a-2025-08", "tdx/phala-v4-b0c0"} {
		s := attesttest.Load(t, name)
		v, err := dcap.New(dcap.Config{TEE: s.Evidence.TEE, Root: dcap.IntelRoot()})
		if err != nil {
			t.Fatal(err)
		}
		items := s.Endorsements.Items()
		for k := range items {
			want := attest.CodeEndorsement
			if items[k].Kind == attest.KindPCKCRL || items[k].Kind == attest.KindRootCRL {
				want = attest.CodeCRL
			}
			check := func(t *testing.T, it attest.Endorsement, i int) {
				t.Helper()
				changed := slices.Clone(items)
				changed[k] = it
				_, steps := v.Verify(s.Evidence, attest.NewEndorsements(changed...), s.At())
				if first := firstFailed(steps); first != want {
					t.Fatalf("byte %d: first failure %q, want %s", i, first, want)
				}
			}
			t.Run(name+"/"+items[k].Kind, func(t *testing.T) {
				for i := 0; i < len(items[k].Body); i += 1 + len(items[k].Body)/150 {
					it := attest.Endorsement{Kind: items[k].Kind, Body: bytes.Clone(items[k].Body), Chain: items[k].Chain}
					it.Body[i] ^= 1 << (i % 5)
					if want == attest.CodeEndorsement && bytes.EqualFold(it.Body, items[k].Body) && bytes.LastIndex(it.Body, []byte("signature")) < i {
						continue // the signature's hexadecimal digits in the other case
					}
					check(t, it, i)
				}
			})
			t.Run(name+"/"+items[k].Kind+" chain", func(t *testing.T) {
				ders := split(t, items[k].Chain)
				for c, der := range ders {
					for i := 0; i < len(der); i += 1 + len(der)/40 {
						changed := slices.Clone(ders)
						changed[c] = bytes.Clone(der)
						changed[c][i] ^= 1 << (i % 8)
						check(t, attest.Endorsement{Kind: items[k].Kind, Body: items[k].Body, Chain: attesttest.PEMs(changed...)}, i)
					}
				}
			})
		}
	}
}

func split(t *testing.T, data []byte) [][]byte {
	t.Helper()
	var ders [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return ders
		}
		ders = append(ders, block.Bytes)
	}
}
