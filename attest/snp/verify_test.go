package snp_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

// failed names the steps that do not hold: "ATT-010 report.signature".
func failed(steps []attest.Step) []string {
	var names []string
	for _, s := range steps {
		if !s.OK {
			names = append(names, s.Code+" "+s.Field)
		}
	}
	return names
}

func TestConformance(t *testing.T) {
	for _, name := range []string{"snp/msft-milan-v3-vcek", "snp/azure-genoa-hcl", "snp/msft-turin-v5-vcek", "snp/trustee-vlek", "snp/azure-milan-hcl"} {
		t.Run(name, func(t *testing.T) {
			s := attesttest.Load(t, name)
			attesttest.Verifier(t, snp.NewVerifier, attesttest.Sample{Evidence: s.Evidence, Endorsements: s.Endorsements, At: s.At()})
		})
	}
	t.Run("with a CRL", func(t *testing.T) {
		f := forge(t, snp.Milan, vcek)
		f.AddCRL(x509.RevocationList{ThisUpdate: forgedAt.AddDate(0, -1, 0), NextUpdate: forgedAt.AddDate(0, 5, 0)}, rsaKeys()["root"], 7)
		attesttest.Verifier(t, func() attest.Verifier { return verifier(f) },
			attesttest.Sample{Evidence: f.Evidence(), Endorsements: f.Endorsements(), At: forgedAt})
	})
}

// TestFields changes one field of a real report at a time: the signature must
// fail, and besides it exactly the steps that compare the field.
func TestFields(t *testing.T) {
	for _, set := range []string{"snp/msft-milan-v3-vcek", "snp/msft-turin-v5-vcek"} {
		s := attesttest.Load(t, set)
		v := snp.NewVerifier()
		for _, c := range []struct {
			field string
			at    int
			also  []string
		}{
			{"guest SVN", 0x04, nil}, {"policy ABI", 0x08, nil}, {"policy SMT", 0x0a, nil}, {"family ID", 0x10, nil}, {"image ID", 0x20, nil},
			{"VMPL", 0x30, nil}, {"current TCB", 0x3f, []string{"ATT-003 report.tcb"}}, {"platform info", 0x40, nil}, {"author key", 0x48, nil},
			{"report data", 0x50, nil}, {"measurement", 0x90, nil}, {"host data", 0xc0, nil}, {"ID key digest", 0xe0, nil}, {"author key digest", 0x110, nil},
			{"report ID", 0x140, nil}, {"migration agent", 0x160, nil}, {"reported TCB", 0x187, []string{"ATT-025 vcek.tcb"}},
			{"stepping", 0x18a, nil}, {"chip ID", 0x1a0, []string{"ATT-025 vcek.chipID"}}, {"committed TCB", 0x1e7, nil}, {"current build", 0x1e8, nil},
			{"committed build", 0x1ec, nil}, {"launch TCB", 0x1f0, nil}, {"launch mitigations", 0x1f8, nil}, {"current mitigations", 0x200, nil},
			{"R", 0x2a0, nil}, {"S", 0x2a0 + 72, nil},
		} {
			t.Run(set+"/"+c.field, func(t *testing.T) {
				raw := bytes.Clone(s.Evidence.Raw)
				raw[c.at] ^= 1
				if c.at == 0x3f { // below the others, whatever they are
					raw[c.at] = 0
				}
				claims, steps := v.Verify(attest.Evidence{TEE: attest.SNP, Raw: raw}, s.Endorsements, s.At())
				want := append([]string{"ATT-010 report.signature"}, c.also...)
				if c.field == "committed TCB" || c.field == "reported TCB" {
					if raw[c.at] > raw[0x3f] {
						want = append(want, "ATT-003 report.tcb")
					}
				}
				if got := failed(steps); !reflect.DeepEqual(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
				if claims.SNP == nil {
					t.Error("got no claims, want those of the report")
				}
			})
		}
	}
}

func TestClaims(t *testing.T) {
	for name, want := range map[string]attest.SNPClaims{
		"snp/msft-milan-v3-vcek": {Version: 3, GuestSVN: 2, Signer: "VCEK", Product: snp.Milan, ReportedTCB: attest.SNPTCB{Bootloader: 4, SNP: 24, Microcode: 219},
			CurrentFirmware: attest.SNPFirmware{Major: 1, Minor: 55, Build: 29}},
		"snp/msft-turin-v5-vcek": {Version: 5, GuestSVN: 2, Signer: "VCEK", Product: snp.Turin, ReportedTCB: attest.SNPTCB{FMC: 1, Bootloader: 1, TEE: 1, SNP: 4, Microcode: 81},
			CurrentFirmware: attest.SNPFirmware{Major: 1, Minor: 55, Build: 65}},
		"snp/trustee-vlek": {Version: 3, VMPL: 1, Signer: "VLEK", Product: snp.Milan, ReportedTCB: attest.SNPTCB{Bootloader: 4, SNP: 24, Microcode: 217},
			CurrentFirmware: attest.SNPFirmware{Major: 1, Minor: 55, Build: 29}, ProvisionalFirmware: true, Provider: "CN=cc-us-east-2.amazonaws.com"},
		"snp/virtee-milan-v2-vcek": {Version: 2, Signer: "VCEK", Product: snp.Milan, ReportedTCB: attest.SNPTCB{Bootloader: 3, SNP: 8, Microcode: 115},
			CurrentFirmware: attest.SNPFirmware{Major: 1, Minor: 52, Build: 4}},
	} {
		t.Run(name, func(t *testing.T) {
			s := attesttest.Load(t, name)
			c, _ := snp.NewVerifier().Verify(s.Evidence, s.Endorsements, s.At())
			g := c.SNP
			got := attest.SNPClaims{Version: g.Version, GuestSVN: g.GuestSVN, VMPL: g.VMPL, Signer: g.Signer, Product: g.Product, ReportedTCB: g.ReportedTCB,
				CurrentFirmware: g.CurrentFirmware, ProvisionalFirmware: g.ProvisionalFirmware, Provider: g.Provider}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestForged(t *testing.T) {
	for _, product := range snp.Products() {
		for _, key := range []signer{vcek, vlek} {
			t.Run(product+" "+string(key), func(t *testing.T) {
				f := forge(t, product, key)
				c, steps := verifier(f).Verify(f.Evidence(), f.Endorsements(), forgedAt)
				if got := failed(steps); got != nil {
					t.Errorf("under its own root: got %v, want all to hold", got)
				}
				if want := (attest.SNPTCB{Bootloader: 11, TEE: 12, SNP: 13, Microcode: 18}); product != snp.Turin && c.SNP.ReportedTCB != want {
					t.Errorf("got %v, want %v", c.SNP.ReportedTCB, want)
				}
				want := []string{"ATT-006 " + map[signer]string{vcek: "vcek.chain", vlek: "vlek.chain"}[key]}
				if _, steps := snp.NewVerifier().Verify(f.Evidence(), f.Endorsements(), forgedAt); !reflect.DeepEqual(failed(steps), want) {
					t.Errorf("under AMD's roots: got %v, want %v", failed(steps), want)
				}
			})
		}
	}
}

// TestRefused forges one thing wrong at a time.
func TestRefused(t *testing.T) {
	le := binary.LittleEndian
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	chain := func(f *forged, body []byte) { f.Items = []attest.Endorsement{{Kind: attest.KindAMDChain, Body: body}} }
	for _, c := range []struct {
		name string
		make func(*forged)
		want []string
	}{
		{"report version 1", func(f *forged) { f.Report[0] = 1 }, []string{"ATT-004 report.version"}},
		{"report version 6", func(f *forged) { f.Report[0] = 6 }, []string{"ATT-004 report.version"}},
		{"signature algorithm", func(f *forged) { f.Report[0x34] = 2 }, []string{"ATT-004 report.version"}},
		{"no signer", func(f *forged) { le.PutUint32(f.Report[0x48:], 7<<2) }, []string{"ATT-004 report.version"}},
		{"reserved signer", func(f *forged) { le.PutUint32(f.Report[0x48:], 3<<2) }, []string{"ATT-003 report.format"}},
		{"reserved policy bit", func(f *forged) { f.Report[0x0a] = 0 }, []string{"ATT-003 report.format"}},
		{"reserved bytes", func(f *forged) { f.Report[0x210] = 1 }, []string{"ATT-003 report.format"}},
		{"signed by a VLEK that is not there", func(f *forged) { le.PutUint32(f.Report[0x48:], 1<<2) }, []string{"ATT-022 vlek.chain"}},
		{"unknown CPU", func(f *forged) { f.Report[0x188] = 0x17 }, []string{"ATT-025 report.product"}},
		{"CPU of another product", func(f *forged) { f.Report[0x189] = 0x11 }, []string{"ATT-025 report.product"}},
		{"current TCB below committed", func(f *forged) { f.Report[0x3f] = 1 }, []string{"ATT-003 report.tcb"}},
		{"reported TCB below the key's", func(f *forged) { f.Report[0x187] = 1 }, []string{"ATT-025 vcek.tcb"}},
		{"reserved patch level differs", func(f *forged) { f.Report[0x182] = 1 }, []string{"ATT-025 vcek.tcb"}},
		{"another chip", func(f *forged) { f.Report[0x1a0] = 99 }, []string{"ATT-025 vcek.chipID"}},
		{"masked chip", func(f *forged) { clear(f.Report[0x1a0:0x1e0]) }, nil},
		{"SMT, debug and migration", func(f *forged) { f.Report[0x0a] |= 0x0d }, nil},
		{"unknown platform bits", func(f *forged) { f.Report[0x41] = 0xff }, nil},

		{"leaf is named otherwise", func(f *forged) { f.Leaf.Subject.CommonName = "SEV-VLEK" }, []string{"ATT-006 vcek.chain"}},
		{"leaf is a CA", func(f *forged) { f.Leaf.IsCA, f.Leaf.BasicConstraintsValid = true, true }, []string{"ATT-006 vcek.chain"}},
		{"leaf has a P-256 key", func(f *forged) { f.LeafKey = &p256.PublicKey }, []string{"ATT-006 vcek.chain"}},
		{"leaf has a critical extension", func(f *forged) {
			f.Leaf.ExtraExtensions = append(f.Leaf.ExtraExtensions, pkix.Extension{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}, []string{"ATT-006 vcek.chain"}},
		{"leaf has ended", func(f *forged) { f.Leaf.NotAfter = forgedAt.Add(-time.Second) }, []string{"ATT-030 vcek.validity"}},
		{"leaf begins later", func(f *forged) { f.Leaf.NotBefore = forgedAt.Add(time.Second) }, []string{"ATT-030 vcek.validity"}},
		{"no hardware ID", func(f *forged) { f.SetExtension(nil, 4) }, []string{"ATT-007 vcek.extension"}},
		{"short hardware ID", func(f *forged) { f.SetExtension(make([]byte, 8), 4) }, []string{"ATT-007 vcek.extension"}},
		{"hardware ID as OCTET STRING", func(f *forged) {
			f.SetExtension(der(t, f.Leaf.ExtraExtensions[len(f.Leaf.ExtraExtensions)-1].Value, ""), 4)
		}, nil},
		{"no microcode", func(f *forged) { f.SetExtension(nil, 3, 8) }, []string{"ATT-007 vcek.extension"}},
		{"level 256", func(f *forged) { f.SetExtension(der(t, 256, ""), 3, 8) }, []string{"ATT-007 vcek.extension"}},
		{"negative level", func(f *forged) { f.SetExtension(der(t, -1, ""), 3, 8) }, []string{"ATT-007 vcek.extension"}},
		{"level with a tail", func(f *forged) { f.SetExtension([]byte{2, 1, 18, 0}, 3, 8) }, []string{"ATT-007 vcek.extension"}},
		{"unknown component", func(f *forged) { f.SetExtension(der(t, 1, ""), 3, 10) }, []string{"ATT-007 vcek.extension"}},
		{"FMC on Milan", func(f *forged) { f.SetExtension(der(t, 1, ""), 3, 9) }, []string{"ATT-007 vcek.extension"}},
		{"other product", func(f *forged) { f.SetExtension(der(t, "Genoa-B0", "ia5"), 2) }, []string{"ATT-007 vcek.extension"}},
		{"product as UTF-8", func(f *forged) { f.SetExtension(der(t, "Milan-B0", "utf8"), 2) }, []string{"ATT-007 vcek.extension"}},
		{"provider on a VCEK", func(f *forged) { f.SetExtension(der(t, "CN=cloud", "ia5"), 5) }, []string{"ATT-007 vcek.extension"}},
		{"other level in the certificate", func(f *forged) { f.SetExtension(der(t, 17, ""), 3, 8) }, []string{"ATT-025 vcek.tcb"}},

		{"no chain", func(f *forged) { f.Items = nil }, []string{"ATT-006 vcek.chain"}},
		{"empty chain", func(f *forged) { chain(f, []byte{}) }, []string{"ATT-006 vcek.chain"}},
		{"root alone", func(f *forged) { chain(f, pems(f.Root)) }, []string{"ATT-006 vcek.chain"}},
		{"CA alone", func(f *forged) { chain(f, pems(f.CA)) }, nil},
		{"chain with the leaf", func(f *forged) {
			cert := f.Certificate()
			f.Items = []attest.Endorsement{{Kind: attest.KindAMDChain, Body: pems(cert, f.CA, f.Root)}, {Kind: attest.KindVCEK, Body: cert.Raw}}
		}, nil},
		{"chain with another leaf", func(f *forged) { chain(f, pems(f.Certificate(), f.CA)) }, []string{"ATT-006 vcek.chain"}},
		{"CA twice", func(f *forged) { chain(f, pems(f.CA, f.CA)) }, []string{"ATT-006 vcek.chain"}},
		{"chain of another product", func(f *forged) { chain(f, pems(forge(t, snp.Genoa, vcek).CA)) }, []string{"ATT-006 vcek.chain"}},
		{"chain with a tail", func(f *forged) { chain(f, append(pems(f.CA), "tail"...)) }, []string{"ATT-006 vcek.chain"}},
		{"root with another key", func(f *forged) {
			tmpl := caTemplate("ARK-"+snp.Milan, 100)
			chain(f, pems(f.CA, certify(t, tmpl, tmpl, &rsaKeys()["other"].PublicKey, rsaKeys()["other"])))
		}, []string{"ATT-006 vcek.chain"}},
		{"CA of another root", func(f *forged) {
			tmpl := caTemplate("ARK-"+snp.Milan, 100)
			other := certify(t, tmpl, tmpl, &rsaKeys()["other"].PublicKey, rsaKeys()["other"])
			chain(f, pems(certify(t, caTemplate("SEV-"+snp.Milan, 101), other, &rsaKeys()["ask"].PublicKey, rsaKeys()["other"])))
		}, []string{"ATT-006 vcek.chain"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := forge(t, snp.Milan, vcek)
			c.make(f)
			items := append([]attest.Endorsement{{Kind: attest.KindVCEK, Body: f.Certificate().Raw}}, f.Items...)
			if _, steps := verifier(f).Verify(f.Evidence(), attest.NewEndorsements(items...), forgedAt); !reflect.DeepEqual(failed(steps), c.want) {
				t.Errorf("got %v, want %v", failed(steps), c.want)
			}
		})
	}
}

func TestRevocation(t *testing.T) {
	month := func(n int) time.Time { return forgedAt.AddDate(0, n, 0) }
	for _, c := range []struct {
		name    string
		make    func(*forged)
		want    []string
		checked bool
	}{
		{"none", func(*forged) {}, nil, false},
		{"fresh", func(f *forged) {
			f.AddCRL(x509.RevocationList{ThisUpdate: month(-1), NextUpdate: month(1)}, rsaKeys()["root"], 5, 1)
		}, nil, true},
		{"revokes the CA", func(f *forged) {
			f.AddCRL(x509.RevocationList{ThisUpdate: month(-1), NextUpdate: month(1)}, rsaKeys()["root"], 101)
		}, []string{"ATT-019 ca.revocation"}, true},
		{"ended", func(f *forged) {
			f.AddCRL(x509.RevocationList{ThisUpdate: month(-13), NextUpdate: month(-1)}, rsaKeys()["root"])
		}, []string{"ATT-021 crl.validity"}, false},
		{"of the future", func(f *forged) {
			f.AddCRL(x509.RevocationList{ThisUpdate: month(1), NextUpdate: month(2)}, rsaKeys()["root"])
		}, []string{"ATT-021 crl.validity"}, false},
		{"ended, and revokes the CA", func(f *forged) {
			f.AddCRL(x509.RevocationList{ThisUpdate: month(-13), NextUpdate: month(-1)}, rsaKeys()["root"], 101)
		}, []string{"ATT-019 ca.revocation", "ATT-021 crl.validity"}, false},
		{"of another key", func(f *forged) {
			f.AddCRL(x509.RevocationList{ThisUpdate: month(-1), NextUpdate: month(1)}, rsaKeys()["other"])
		}, []string{"ATT-020 crl.signature"}, false},
		{"damaged", func(f *forged) {
			f.Items = append(f.Items, attest.Endorsement{Kind: attest.KindAMDCRL, Body: []byte("crl")})
		}, []string{"ATT-020 crl.signature"}, false},
		{"partial", func(f *forged) {
			f.AddCRL(x509.RevocationList{ThisUpdate: month(-1), NextUpdate: month(1), ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}}}, rsaKeys()["root"])
		}, []string{"ATT-020 crl.signature"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := forge(t, snp.Milan, vcek)
			c.make(f)
			claims, steps := verifier(f).Verify(f.Evidence(), f.Endorsements(), forgedAt)
			if !reflect.DeepEqual(failed(steps), c.want) || claims.TCB.RevocationChecked != c.checked {
				t.Errorf("got %v, checked %t; want %v, %t", failed(steps), claims.TCB.RevocationChecked, c.want, c.checked)
			}
			ended := strings.HasPrefix(c.name, "ended")
			if claims.TCB.CRLsEnded != ended {
				t.Errorf("CRLs ended: got %t, want %t", claims.TCB.CRLsEnded, ended)
			}
			e, en := f.Evidence(), f.Endorsements()
			p := attest.Policy{Package: attest.Package{SNP: &attest.SNPReference{AllowAny: true}}, Platform: attest.Platform{
				SNP:          &attest.SNPPlatform{MinTCB: map[string]attest.SNPTCB{snp.Milan: {}}, AllowSMT: true, AllowProvisionalFirmware: true},
				Endorsements: attest.EndorsementRules{GraceUntil: month(1)}}}
			v := attest.JudgeUnbound(attest.NewVerifiers(verifier(f)), e, en, p, forgedAt)
			if want := c.name == "fresh" || c.name == "ended"; v.OK() != want {
				t.Errorf("with a grace: got accepted=%t, want %t; failed: %v", v.OK(), want, v.Failed())
			}
		})
	}
}

// TestCaches checks that time counts on every use and that nothing unverified is
// kept.
func TestCaches(t *testing.T) {
	f := forge(t, snp.Milan, vcek)
	f.AddCRL(x509.RevocationList{ThisUpdate: forgedAt.AddDate(0, -1, 0), NextUpdate: forgedAt.AddDate(0, 1, 0)}, rsaKeys()["root"])
	v, e, en := verifier(f), f.Evidence(), f.Endorsements()
	for range 2 {
		if _, steps := v.Verify(e, en, forgedAt); failed(steps) != nil {
			t.Errorf("got %v, want all to hold", failed(steps))
		}
		want := []string{"ATT-030 vcek.validity", "ATT-021 crl.validity"}
		if _, steps := v.Verify(e, en, forgedAt.AddDate(10, 0, 0)); !reflect.DeepEqual(failed(steps), want) {
			t.Errorf("ten years later: got %v, want %v", failed(steps), want)
		}
	}
	if chains, crls := v.Cached(); chains != 1 || crls != 1 {
		t.Errorf("got %d chains and %d CRLs in the caches, want 1 and 1", chains, crls)
	}
	// The chain is remembered with cert_chain.pem; an empty one is another.
	leaf, _ := en.Get(attest.KindVCEK)
	bad := attest.NewEndorsements(leaf, attest.Endorsement{Kind: attest.KindAMDChain}, attest.Endorsement{Kind: attest.KindAMDCRL, Body: []byte{1}})
	if _, steps := v.Verify(e, bad, forgedAt); len(failed(steps)) == 0 {
		t.Error("an empty cert_chain.pem: got all to hold")
	}
	if chains, crls := v.Cached(); chains != 1 || crls != 1 {
		t.Error("what did not hold was remembered")
	}
}

func TestNew(t *testing.T) {
	f := forge(t, snp.Milan, vcek)
	for name, c := range map[string]snp.Config{
		"no root":     {},
		"no CA":       {Roots: []*x509.Certificate{f.Certificate()}},
		"no product":  {Roots: []*x509.Certificate{f.CA}},
		"root twice":  {Roots: []*x509.Certificate{f.Root, f.Root}},
		"CA twice":    {Roots: []*x509.Certificate{f.Root}, Intermediates: []*x509.Certificate{f.CA, f.CA}},
		"other names": {Roots: []*x509.Certificate{certify(t, caTemplate("ARK-Rome", 1), caTemplate("ARK-Rome", 1), &rsaKeys()["root"].PublicKey, rsaKeys()["root"])}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := snp.New(c); err == nil {
				t.Error("got a verifier, want an error")
			}
		})
	}
}
