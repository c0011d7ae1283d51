package dcap_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

func TestConformance(t *testing.T) {
	for _, tee := range []attest.TEE{attest.SGX, attest.TDX} {
		t.Run(string(tee), func(t *testing.T) {
			f := newForge(t, tee)
			e, en := f.Make()
			attesttest.Verifier(t, func() attest.Verifier { return verifier(f) }, attesttest.Sample{Evidence: e, Endorsements: en, At: forgeTime})
		})
	}
}

func TestNew(t *testing.T) {
	root := newForge(t, attest.SGX).Root
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		dcap.Config
		ok bool
	}{
		{"sgx", dcap.Config{TEE: attest.SGX, Root: root}, true},
		{"simulated tdx", dcap.Config{TEE: attest.SimTDX, Root: root}, true},
		{"snp", dcap.Config{TEE: attest.SNP, Root: root}, false},
		{"no TEE", dcap.Config{Root: root}, false},
		{"no root", dcap.Config{TEE: attest.SGX}, false},
		{"root is no CA", dcap.Config{TEE: attest.SGX, Root: &x509.Certificate{PublicKey: root.PublicKey}}, false},
		{"P-384 root", dcap.Config{TEE: attest.SGX, Root: &x509.Certificate{IsCA: true, PublicKey: &p384.PublicKey}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if v, err := dcap.New(c.Config); (err == nil) != c.ok || (v != nil) != c.ok {
				t.Errorf("got %v, %v, want ok=%t", v, err, c.ok)
			}
		})
	}
}

func TestDetect(t *testing.T) {
	for name, want := range map[string]attest.TEE{
		"sgx/automata-v3-606a-2025-08": attest.SGX, "tdx/phala-v4-b0c0": attest.TDX, "tdx/alibaba-v5-90c0": attest.TDX,
		"ratls/ego-sample": attest.SGX, "sgx/oasis-v3-eppid": attest.SGX, "sgx/neg-truncated": attest.SGX,
	} {
		if got := dcap.Detect(attesttest.Load(t, name).Evidence.Raw); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, raw := range [][]byte{nil, {3}, make([]byte, 100), []byte("not a quote, but longer than a header of forty-eight bytes")} {
		if got := dcap.Detect(raw); got != "" {
			t.Errorf("%q: got %q, want none", raw, got)
		}
	}
}

// TestStatus checks how the statuses of the parts become one.
func TestStatus(t *testing.T) {
	type status = attest.TCBStatus
	for _, c := range []struct{ platform, part, want status }{
		{attest.UpToDate, attest.UpToDate, attest.UpToDate},
		{attest.SWHardeningNeeded, attest.UpToDate, attest.SWHardeningNeeded},
		{attest.OutOfDate, attest.UpToDate, attest.OutOfDate},
		{attest.UpToDate, attest.OutOfDate, attest.OutOfDate},
		{attest.SWHardeningNeeded, attest.OutOfDate, attest.OutOfDate},
		{attest.ConfigurationNeeded, attest.OutOfDate, attest.OutOfDateConfigurationNeeded},
		{attest.ConfigurationAndSWHardeningNeeded, attest.OutOfDate, attest.OutOfDateConfigurationNeeded},
		{attest.OutOfDate, attest.OutOfDate, attest.OutOfDate},
		{attest.OutOfDateConfigurationNeeded, attest.OutOfDate, attest.OutOfDateConfigurationNeeded},
		{attest.UpToDate, attest.Revoked, attest.Revoked},
		{attest.OutOfDateConfigurationNeeded, attest.Revoked, attest.Revoked},
		{attest.Revoked, attest.UpToDate, attest.Revoked},
		{attest.Revoked, attest.OutOfDate, attest.Revoked},
	} {
		for _, part := range []string{"qe", "module"} {
			t.Run(string(c.platform)+" with "+part+" "+string(c.part), func(t *testing.T) {
				f := newForge(t, attest.TDX)
				f.TCB["tcbLevels"] = []any{f.Level(5, 3, string(c.platform))}
				if part == "qe" {
					f.QE["tcbLevels"] = []any{attesttest.ISVLevel(7, string(c.part))}
				} else {
					f.TCB["tdxModuleIdentities"] = []any{attesttest.Module("TDX_01", []any{attesttest.ISVLevel(3, string(c.part))})}
				}
				e, en := f.Make()
				claims, steps := verifier(f).Verify(e, en, forgeTime)
				if got := failures(steps); got != nil {
					t.Errorf("got failures %v, want none", got)
				}
				if claims.TCB.Status != c.want {
					t.Errorf("got %q, want %q", claims.TCB.Status, c.want)
				}
				if claims.TCB.EvaluationNumber != 20 {
					t.Errorf("evaluation number: got %d, want 20, the lower one", claims.TCB.EvaluationNumber)
				}
			})
		}
	}
}

// TestLevels checks which level of several is met, by component.
func TestLevels(t *testing.T) {
	f := newForge(t, attest.TDX)
	levels := []any{f.Level(6, 3, "UpToDate"), f.Level(5, 4, "SWHardeningNeeded"), f.Level(5, 3, "OutOfDate"), f.Level(1, 1, "Revoked")}
	for _, c := range []struct {
		name   string
		change func(*forge)
		want   attest.TCBStatus
	}{
		{"third level", func(*forge) {}, attest.OutOfDate},
		{"higher SGX components", func(f *forge) { f.Extension = attesttest.PCKExtension(t, 6, "010203040506", "0000") }, attest.UpToDate},
		{"last TDX component too low", func(f *forge) { f.Body[15] = 2 }, attest.Revoked},
		{"first two TDX components are the module's", func(f *forge) { f.Body[0] = 9; f.Body[1] = 1 }, attest.OutOfDate},
		{"all TDX components without a module version", func(f *forge) { f.Body[1] = 0 }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newForge(t, attest.TDX)
			f.TCB["tcbLevels"] = levels
			c.change(f)
			e, en := f.Make()
			claims, _ := verifier(f).Verify(e, en, forgeTime)
			if claims.TCB.Status != c.want {
				t.Errorf("got %q, want %q", claims.TCB.Status, c.want)
			}
		})
	}
}

// TestDebug checks the debug bits of both shapes.
func TestDebug(t *testing.T) {
	for _, c := range []struct {
		name   string
		tee    attest.TEE
		offset int
		bit    byte
		want   bool
	}{
		{"production enclave", attest.SGX, 48, 0x05, false},
		{"debug enclave", attest.SGX, 48, 0x02, true},
		{"production guest", attest.TDX, 123, 0x10, false},
		{"debug guest", attest.TDX, 120, 0x01, true},
		{"profiled guest", attest.TDX, 120, 0x20, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newForge(t, c.tee)
			f.Body[c.offset] = c.bit
			e, en := f.Make()
			claims, _ := verifier(f).Verify(e, en, forgeTime)
			if claims.Debug != c.want {
				t.Errorf("got %t, want %t", claims.Debug, c.want)
			}
		})
	}
}

// TestBounds checks how long claims last.
func TestBounds(t *testing.T) {
	f := newForge(t, attest.SGX)
	e, en := f.Make()
	c, _ := verifier(f).Verify(e, en, forgeTime)
	for name, pair := range map[string][2]time.Time{
		"oldest issue": {c.TCB.OldestIssue, time.Date(2026, 5, 30, 0, 0, 0, 0, time.UTC)},
		"next update":  {c.TCB.NextUpdate, forgeTime.Add(20 * day)},
		"not after":    {c.TCB.NotAfter, forgeTime.Add(300 * day)},
		"valid until":  {c.TCB.ValidUntil(), forgeTime.Add(20 * day)},
	} {
		if !pair[0].Equal(pair[1]) {
			t.Errorf("%s: got %v, want %v", name, pair[0], pair[1])
		}
	}
}

// TestCaches checks that a filled verifier says what a fresh one says: after
// damaged evidence, with a newer CRL, and at another time.
func TestCaches(t *testing.T) {
	f := newForge(t, attest.TDX)
	var parts forged
	f.After = func(o *forged) { parts = *o }
	e, en := f.Make()
	otherLeaf := parts
	otherLeaf.Certificates = append([][]byte{f.Certificate(f.PCK(), f.Parse(parts.Certificates[1]), &attesttest.NewKey(t).PublicKey, f.CAKey)}, parts.Certificates[1:]...)
	badQE := parts
	badQE.QESignature = append([]byte{parts.QESignature[0] ^ 1}, parts.QESignature[1:]...)
	quote := func(o forged) attest.Evidence { return attest.Evidence{TEE: f.TEE, Raw: f.Quote(&o)} }
	warm := verifier(f)
	same := func(what string, e attest.Evidence, en attest.Endorsements, at time.Time, want []string) {
		t.Helper()
		wc, ws := warm.Verify(e, en, at)
		fc, fs := verifier(f).Verify(e, en, at)
		if !reflect.DeepEqual(wc, fc) || text(t, ws) != text(t, fs) {
			t.Errorf("%s: a warm verifier answers\n%s\na fresh one\n%s", what, text(t, ws), text(t, fs))
		}
		if got := failures(ws); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	damaged := func(offset int) attest.Evidence {
		raw := append([]byte(nil), e.Raw...)
		raw[len(raw)-offset] ^= 1
		return attest.Evidence{TEE: e.TEE, Raw: raw}
	}
	replace := func(kind string, change func([]byte) []byte) attest.Endorsements {
		items := append([]attest.Endorsement(nil), en.Items()...)
		for i := range items {
			if items[i].Kind == kind {
				items[i].Body = change(append([]byte(nil), items[i].Body...))
			}
		}
		return attest.NewEndorsements(items...)
	}
	broken := func(b []byte) []byte { b[len(b)-3] ^= 1; return b }
	same("damaged chain first", damaged(400), en, forgeTime, []string{"ATT-006 pck.chain"})
	same("broken TCB info first", e, replace(attest.KindTCBInfo, broken), forgeTime, []string{"ATT-023 tcbInfo.signature"})
	same("QE signature broken first", quote(badQE), en, forgeTime, []string{"ATT-008 qe.signature"})
	same("QE signature broken again", quote(badQE), en, forgeTime, []string{"ATT-008 qe.signature"})
	same("good", e, en, forgeTime, nil)
	if c, _ := warm.Verify(e, en, forgeTime); c.TCB.FMSPC[0] == 1 {
		c.TCB.FMSPC[0] = 9 // what a caller does to its claims is its own matter
	}
	same("QE report of another leaf", quote(otherLeaf), en, forgeTime, []string{"ATT-008 qe.signature"})
	same("good again", e, en, forgeTime, nil)
	same("damaged chain after", damaged(400), en, forgeTime, []string{"ATT-006 pck.chain"})
	same("broken TCB info after", e, replace(attest.KindTCBInfo, broken), forgeTime, []string{"ATT-023 tcbInfo.signature"})
	same("later", e, en, forgeTime.Add(25*day), []string{"ATT-021 pckCRL.validity"})
	revoke(f.PCKCRL, 3)
	newer := f.CRL(f.PCKCRL, f.Parse(f.Certificate(f.CA, f.Root, &f.CAKey.PublicKey, f.RootKey)), f.CAKey)
	same("newer CRL", e, replace(attest.KindPCKCRL, func([]byte) []byte { return newer }), forgeTime, []string{"ATT-019 pck.revocation"})
	same("good in the end", e, en, forgeTime, nil)
}

// TestOpenEnclaveHeader checks the header that EGo puts before a quote.
func TestOpenEnclaveHeader(t *testing.T) {
	f := newForge(t, attest.SGX)
	e, en := f.Make()
	for name, c := range map[string]struct {
		length int
		want   []string
	}{
		"exact": {len(e.Raw), nil}, "one byte less": {len(e.Raw) - 1, []string{"ATT-003 quote.format"}}, "one byte more": {len(e.Raw) + 1, []string{"ATT-003 quote.format"}},
		"zero": {0, []string{"ATT-003 quote.format"}}, "negative": {-1, []string{"ATT-003 quote.format"}},
	} {
		t.Run(name, func(t *testing.T) {
			raw := binary.LittleEndian.AppendUint64([]byte{1, 0, 0, 0, 2, 0, 0, 0}, uint64(c.length))
			_, steps := verifier(f).Verify(attest.Evidence{TEE: e.TEE, Raw: append(raw, e.Raw...)}, en, forgeTime)
			if got := failures(steps); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestOtherShape checks that a verifier refuses the quotes of the other TEE.
func TestOtherShape(t *testing.T) {
	e, en := newForge(t, attest.SGX).Make()
	f := newForge(t, attest.TDX)
	_, steps := verifier(f).Verify(e, en, forgeTime)
	if got := failures(steps); !reflect.DeepEqual(got, []string{"ATT-004 quote.version"}) {
		t.Errorf("got %v, want ATT-004 quote.version", got)
	}
}

func text(t *testing.T, steps []attest.Step) string {
	t.Helper()
	b, err := json.MarshalIndent(steps, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// FuzzVerify verifies mutated evidence and endorsements: no panic, and whatever
// is found genuine says what the original says.
func FuzzVerify(f *testing.F) {
	type original struct{ reportData, uniqueID string }
	known := map[original]bool{}
	verifiers := map[attest.TEE]*dcap.Verifier{}
	for _, tee := range []attest.TEE{attest.SGX, attest.TDX} {
		v, err := dcap.New(dcap.Config{TEE: tee, Root: dcap.IntelRoot()})
		if err != nil {
			f.Fatal(err)
		}
		verifiers[tee] = v
	}
	identity := func(c attest.Claims) original {
		if c.SGX != nil {
			return original{c.ReportData.String(), c.SGX.UniqueID.String()}
		}
		return original{c.ReportData.String(), c.TDX.MRTD.String()}
	}
	for _, s := range attesttest.All(f) {
		var parts [4][]byte
		for i, kind := range []string{attest.KindTCBInfo, attest.KindQEIdentity, attest.KindPCKCRL, attest.KindRootCRL} {
			item, _ := s.Endorsements.Get(kind)
			parts[i] = item.Body
		}
		chain, _ := s.Endorsements.Get(attest.KindTCBInfo)
		f.Add(s.Evidence.Raw, parts[0], parts[1], parts[2], parts[3], chain.Chain, s.At().Unix())
		if v := verifiers[s.Evidence.TEE]; v != nil && s.Genuine && s.Root == nil {
			c, _ := v.Verify(s.Evidence, s.Endorsements, s.At())
			known[identity(c)] = true
		}
	}
	f.Fuzz(func(t *testing.T, raw, tcb, qe, pckCRL, rootCRL, chain []byte, at int64) {
		var items []attest.Endorsement
		for kind, body := range map[string][]byte{attest.KindTCBInfo: tcb, attest.KindQEIdentity: qe, attest.KindPCKCRL: pckCRL, attest.KindRootCRL: rootCRL} {
			if len(body) > 0 {
				it := attest.Endorsement{Kind: kind, Body: body}
				if kind == attest.KindTCBInfo || kind == attest.KindQEIdentity {
					it.Chain = chain
				}
				items = append(items, it)
			}
		}
		for tee, v := range verifiers {
			c, steps := v.Verify(attest.Evidence{TEE: tee, Raw: raw}, attest.NewEndorsements(items...), time.Unix(at, 0))
			if failures(steps) == nil && !known[identity(c)] {
				t.Errorf("forged: genuine with claims %+v", c)
			}
		}
	})
}
