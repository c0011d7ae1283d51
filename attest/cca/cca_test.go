package cca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"math/big"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/ccatoken"
	"github.com/veraison/ccatoken/platform"
	"github.com/veraison/ccatoken/realm"
	"github.com/veraison/go-cose"
	"github.com/veraison/psatoken"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/cca"
)

// machine is a platform with a realm, whose tokens the reference library of the
// format signs.
type machine struct {
	t                testing.TB
	iak, rak         *ecdsa.PrivateKey
	platform         platform.IClaims
	realm            realm.IClaims
	platformAlg      cose.Algorithm
	implementation   []byte
	instance         []byte
	keepPlatformHash bool
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	must(t, err)
	return k
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{t: t, iak: newKey(t, elliptic.P384()), rak: newKey(t, elliptic.P384()), platformAlg: cose.AlgorithmES384,
		implementation: fill(5, 32), instance: append([]byte{1}, fill(6, 32)...)}
	m.platform, m.realm = platform.NewClaims(), realm.NewClaims()
	measurement, signer := fill(9, 32), fill(8, 32)
	must(t, m.platform.SetImplID(m.implementation), m.platform.SetInstID(m.instance), m.platform.SetConfig([]byte{1, 2}),
		m.platform.SetSecurityLifeCycle(0x3000), m.platform.SetHashAlgID("sha-256"),
		m.platform.SetSoftwareComponents([]psatoken.ISwComponent{&psatoken.SwComponent{MeasurementValue: &measurement, SignerID: &signer}}),
		m.realm.SetChallenge(fill(7, 64)), m.realm.SetPersonalizationValue(fill(3, 64)), m.realm.SetInitialMeasurement(fill(1, 32)),
		m.realm.SetExtensibleMeasurements([][]byte{fill(10, 32), fill(11, 32), fill(12, 32), fill(13, 32)}),
		m.realm.SetHashAlgID("sha-256"), m.realm.SetPubKeyHashAlgID("sha-512"))
	m.setKey(m.rak)
	return m
}

func (m *machine) setKey(k *ecdsa.PrivateKey) {
	m.t.Helper()
	point, err := k.PublicKey.Bytes()
	must(m.t, err)
	key, err := cose.NewKeyEC2(cose.AlgorithmES384, point[1:49], point[49:], nil)
	must(m.t, err)
	encoded, err := key.MarshalCBOR()
	must(m.t, err)
	must(m.t, m.realm.SetPubKey(encoded))
}

// sign returns the token as CBOR.
func (m *machine) sign() []byte {
	m.t.Helper()
	e := ccatoken.Evidence{PlatformClaims: m.platform, RealmClaims: m.realm}
	if !m.keepPlatformHash {
		must(m.t, e.SetClaims(m.platform, m.realm))
	}
	p, err := cose.NewSigner(m.platformAlg, m.iak)
	must(m.t, err)
	r, err := cose.NewSigner(cose.AlgorithmES384, m.rak)
	must(m.t, err)
	token, err := e.Sign(p, r)
	must(m.t, err)
	return token
}

func (m *machine) verifier() *cca.Verifier {
	m.t.Helper()
	v, err := cca.New(cca.Anchor{Implementation: m.implementation, Instance: m.instance, Key: &m.iak.PublicKey})
	must(m.t, err)
	return v
}

func verify(v *cca.Verifier, raw []byte) (attest.Claims, string) {
	c, steps := v.Verify(attest.Evidence{TEE: attest.CCA, Raw: raw}, attest.Endorsements{}, time.Time{})
	var bad []string
	for _, s := range steps {
		if !s.OK {
			bad = append(bad, s.Code+" "+s.Field)
		}
	}
	return c, strings.Join(bad, ", ")
}

func TestClaims(t *testing.T) {
	m := newMachine(t)
	c, bad := verify(m.verifier(), m.sign())
	if bad != "" || c.Debug {
		t.Fatalf("got %q, debug %t", bad, c.Debug)
	}
	for name, want := range map[string][]byte{"rim": fill(1, 32), "rem0": fill(10, 32), "rem3": fill(13, 32), "personalization": fill(3, 64),
		"implementation": m.implementation, "instance": m.instance, "config": {1, 2}, "software0": fill(9, 32)} {
		if !bytes.Equal(c.Registers[name], want) {
			t.Errorf("%s: got %s, want %x", name, c.Registers[name], want)
		}
	}
	if !bytes.Equal(c.ReportData, fill(7, 64)) {
		t.Errorf("report data: got %s", c.ReportData)
	}
}

// TestJudge takes a token through the one decision, as any program does that
// brings this verifier along.
func TestJudge(t *testing.T) {
	m := newMachine(t)
	e := attest.Evidence{TEE: attest.CCA, Raw: m.sign()}
	for name, c := range map[string]struct {
		registers map[string][]attest.Hex
		binding   byte
		code      string
	}{
		"the right realm":   {map[string][]attest.Hex{"rim": {fill(2, 32), fill(1, 32)}}, 7, ""},
		"another realm":     {map[string][]attest.Hex{"rim": {fill(2, 32)}}, 7, attest.CodeMeasurement},
		"another challenge": {map[string][]attest.Hex{"rim": {fill(1, 32)}}, 8, attest.CodeBinding},
		"no such register":  {map[string][]attest.Hex{"rim": {fill(1, 32)}, "rem4": {fill(1, 32)}}, 7, attest.CodeMeasurement},
		"nothing wanted":    {nil, 7, attest.CodeNoReference},
	} {
		t.Run(name, func(t *testing.T) {
			p := attest.Policy{Package: attest.Package{Plugins: map[attest.TEE]*attest.RegisterReference{attest.CCA: {Registers: c.registers}}},
				Platform: attest.Platform{Endorsements: attest.EndorsementRules{AllowUncheckedRevocation: true}}}
			v := attest.Judge(attest.NewVerifiers(m.verifier()), e, attest.Binding(fill(c.binding, 64)), attest.Endorsements{}, p, time.Time{})
			if code, text := v.Reason(); code != c.code || v.OK() != (c.code == "") {
				t.Errorf("got %q (%s), want %q", code, text, c.code)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(m *machine)
		want   string
	}{
		{"nothing", func(*machine) {}, ""},
		{"legacy platform profile", func(m *machine) { m.legacy() }, ""},
		{"another platform", func(m *machine) { m.implementation = fill(4, 32) }, "ATT-006 platform.anchor"},
		{"another instance", func(m *machine) { m.instance = append([]byte{1}, fill(7, 32)...) }, "ATT-006 platform.anchor"},
		{"key of another curve", func(m *machine) { m.iak, m.platformAlg = newKey(m.t, elliptic.P256()), cose.AlgorithmES256 }, ""},
		{"another realm key signs", func(m *machine) { m.rak = newKey(m.t, elliptic.P384()) }, "ATT-010 realm.signature"},
		{"platform vouches for another key", func(m *machine) {
			must(m.t, (&ccatoken.Evidence{}).SetClaims(m.platform, m.realm))
			m.rak, m.keepPlatformHash = newKey(m.t, elliptic.P384()), true
			m.setKey(m.rak)
		}, "ATT-009 platform.challenge"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			c.change(m)
			if _, got := verify(m.verifier(), m.sign()); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	m := newMachine(t)
	token := m.sign()
	m.iak = newKey(t, elliptic.P384())
	if _, got := verify(m.verifier(), token); got != "ATT-008 platform.signature" {
		t.Errorf("another platform key: got %q", got)
	}
	m.iak = newKey(t, elliptic.P256())
	if _, got := verify(m.verifier(), token); got != "ATT-008 platform.signature" {
		t.Errorf("platform key of another curve: got %q", got)
	}
}

// legacy makes the platform token one of the first profile.
func (m *machine) legacy() {
	old := m.platform
	m.platform = platform.NewLegacyClaims()
	config, err := old.GetConfig()
	must(m.t, err)
	software, err := old.GetSoftwareComponents()
	must(m.t, err)
	must(m.t, m.platform.SetImplID(m.implementation), m.platform.SetInstID(m.instance), m.platform.SetConfig(config),
		m.platform.SetSecurityLifeCycle(0x3000), m.platform.SetHashAlgID("sha-256"), m.platform.SetSoftwareComponents(software))
}

func TestLifecycleIsDebug(t *testing.T) {
	for state, want := range map[uint16]bool{0x3000: false, 0x30ff: false, 0x0: true, 0x2000: true, 0x4000: true, 0x6000: true} {
		m := newMachine(t)
		must(t, m.platform.SetSecurityLifeCycle(state))
		if c, bad := verify(m.verifier(), m.sign()); bad != "" || c.Debug != want {
			t.Errorf("%#x: got debug %t, %q; want %t", state, c.Debug, bad, want)
		}
	}
}

// TestAgreesWithTheLibrary changes single bytes of a token: what this verifier
// accepts, the reference library accepts too.
func TestAgreesWithTheLibrary(t *testing.T) {
	m := newMachine(t)
	token, v := m.sign(), m.verifier()
	library := func(raw []byte, key crypto.PublicKey) (err error) {
		e, err := ccatoken.DecodeEvidenceFromCBOR(raw)
		if err == nil {
			err = e.Verify(key)
		}
		return err
	}
	if err := library(token, &m.iak.PublicKey); err != nil {
		t.Fatalf("the library refuses its own token: %v", err)
	}
	random := mathrand.New(mathrand.NewPCG(1, 2))
	accepted := 0
	for range 400 {
		raw := bytes.Clone(token)
		raw[random.IntN(len(raw))] ^= byte(1 + random.IntN(255))
		if _, bad := verify(v, raw); bad == "" {
			accepted++
			if err := library(raw, &m.iak.PublicKey); err != nil {
				t.Errorf("accepted %x, the library says %v", raw, err)
			}
		}
	}
	if accepted > 0 {
		t.Errorf("%d changed tokens were accepted", accepted)
	}
}

func TestNewRefuses(t *testing.T) {
	key := &newKey(t, elliptic.P384()).PublicKey
	for name, a := range map[string][]cca.Anchor{
		"none":                    nil,
		"no key":                  {{Implementation: fill(1, 32), Instance: fill(1, 33)}},
		"short implementation ID": {{Implementation: fill(1, 31), Instance: fill(1, 33), Key: key}},
		"short instance ID":       {{Implementation: fill(1, 32), Instance: fill(1, 32), Key: key}},
		"P-224":                   {{Implementation: fill(1, 32), Instance: fill(1, 33), Key: &newKey(t, elliptic.P224()).PublicKey}},
	} {
		if _, err := cca.New(a...); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

// TestMalformed gives the verifier what the library would not write.
func TestMalformed(t *testing.T) {
	m := newMachine(t)
	token, v := m.sign(), m.verifier()
	inner := cbor.RawTag{}
	must(t, cbor.Unmarshal(token, &inner))
	encode := func(x any) []byte {
		b, err := cbor.Marshal(x)
		must(t, err)
		return b
	}
	var parts map[int][]byte
	must(t, cbor.Unmarshal(inner.Content, &parts))
	for name, raw := range map[string][]byte{
		"empty": nil, "garbage": []byte("token"), "no tag": inner.Content, "trailing byte": append(bytes.Clone(token), 0),
		"another tag":       encode(cbor.RawTag{Number: 398, Content: inner.Content}),
		"platform alone":    encode(cbor.Tag{Number: 399, Content: map[int][]byte{44234: parts[44234]}}),
		"realm alone":       encode(cbor.Tag{Number: 399, Content: map[int][]byte{44241: parts[44241]}}),
		"the two exchanged": encode(cbor.Tag{Number: 399, Content: map[int][]byte{44234: parts[44241], 44241: parts[44234]}}),
		"too large":         make([]byte, attest.MaxEvidence+1),
	} {
		if _, got := verify(v, raw); got != "ATT-003 token.format" && got != "ATT-004 token.profile" {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func FuzzVerify(f *testing.F) {
	m := newMachine(f)
	f.Add(m.sign())
	v := m.verifier()
	token := string(m.sign())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, bad := verify(v, raw); bad == "" && string(raw) != token && new(big.Int).SetBytes(c.Registers["rim"]).Sign() == 0 {
			t.Errorf("accepted %x", raw)
		}
	})
}
