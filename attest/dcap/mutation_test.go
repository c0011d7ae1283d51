package dcap_test

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"slices"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

// region is a part of a real quote that a signature covers, and the codes of
// which one must be the first to fail once a bit of it is changed.
type region struct {
	name     string
	from, to int
	codes    []string
}

// regions returns the parts of a quote whose body ends at bodyEnd, with the
// QE report starting at qe.
func regions(raw []byte, bodyEnd, qe int) []region {
	auth := qe + 384 + 64
	n := int(binary.LittleEndian.Uint16(raw[auth:]))
	certs := auth + 8 + n
	size := int(binary.LittleEndian.Uint32(raw[certs-4:]))
	return []region{
		{"header", 8, 48, []string{attest.CodeQuoteSignature}},
		{"version", 0, 2, []string{attest.CodeVersion, attest.CodeFormat}},
		{"key type and TEE type", 2, 8, []string{attest.CodeVersion}},
		{"body", 54, bodyEnd, []string{attest.CodeQuoteSignature}},
		{"signature length", bodyEnd, bodyEnd + 4, []string{attest.CodeFormat, attest.CodeCertData}},
		{"quote signature", bodyEnd + 4, bodyEnd + 68, []string{attest.CodeQuoteSignature}},
		{"attestation key", bodyEnd + 68, bodyEnd + 132, []string{attest.CodeQEBinding}},
		{"QE report", qe, qe + 384, []string{attest.CodeQESignature}},
		{"QE signature", qe + 384, qe + 448, []string{attest.CodeQESignature}},
		{"QE data length", auth, auth + 2, []string{attest.CodeFormat, attest.CodeCertData}},
		{"QE data", auth + 2, auth + 2 + n, []string{attest.CodeQEBinding}},
		{"certification data type", auth + 2 + n, auth + 4 + n, []string{attest.CodeCertData}},
		{"certification data length", auth + 4 + n, certs, []string{attest.CodeFormat}},
		{"certificates", certs, certs + size, []string{attest.CodeChain}},
	}
}

// TestQuoteMutations changes every byte of each region of real quotes.
func TestQuoteMutations(t *testing.T) {
	for _, c := range []struct {
		name        string
		bodyEnd, qe int
	}{
		{"sgx/automata-v3-606a-2025-08", 432, 432 + 132},
		{"tdx/phala-v4-b0c0", 632, 632 + 138},
		{"tdx/alibaba-v5-90c0", 702, 702 + 138},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := attesttest.Load(t, c.name)
			v, err := dcap.New(dcap.Config{TEE: s.Evidence.TEE, Root: dcap.IntelRoot()})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range regions(s.Evidence.Raw, c.bodyEnd, c.qe) {
				step := 1 + (r.to-r.from)/100
				for i := r.from; i < r.to; i += step {
					raw := bytes.Clone(s.Evidence.Raw)
					raw[i] ^= 1 << (i % 7)
					if r.name == "certificates" && bytes.IndexByte([]byte("\n\x00"), s.Evidence.Raw[i]) >= 0 {
						continue // white space in PEM, and the zero after it, carry nothing
					}
					_, steps := v.Verify(attest.Evidence{TEE: s.Evidence.TEE, Raw: raw}, s.Endorsements, s.At())
					if first := firstFailed(steps); !slices.Contains(r.codes, first) {
						t.Fatalf("%s, byte %d: first failure %q, want one of %v", r.name, i, first, r.codes)
					}
				}
			}
		})
	}
}

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
