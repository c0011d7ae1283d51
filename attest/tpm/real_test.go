//go:build linux

package tpm_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

var at = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

func encode(t *testing.T, d tpm.Document) []byte {
	t.Helper()
	raw, err := tpm.Encode(d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func failed(steps []attest.Step) string {
	var names []string
	for _, s := range steps {
		if !s.OK {
			names = append(names, s.Code+" "+s.Field)
		}
	}
	return strings.Join(names, ", ")
}

// TestKinds quotes with each kind of key that is read.
func TestKinds(t *testing.T) {
	m := start(t)
	measured := sha256.Sum256([]byte("kernel"))
	m.extend(4, measured[:])
	want := sha256.Sum256(append(make([]byte, 32), measured[:]...))
	b := attest.Bind([]byte("claims"))
	for name, template := range map[string]tpm2.TPMTPublic{
		"RSASSA 2048": rsaTemplate(tpm2.TPMAlgRSASSA, 2048, attributes()),
		"RSAPSS 2048": rsaTemplate(tpm2.TPMAlgRSAPSS, 2048, attributes()),
		"ECDSA P-256": eccTemplate(tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, attributes()),
		"ECDSA P-384": eccTemplate(tpm2.TPMECCNistP384, tpm2.TPMAlgSHA384, attributes()),
	} {
		t.Run(name, func(t *testing.T) {
			k := m.create(template)
			defer tpm2.FlushContext{FlushHandle: k.handle.Handle}.Execute(m.tpm)
			raw := encode(t, m.quote(k, b[:32], 0, 4, 23))
			c, steps := tpm.NewVerifier().Verify(attest.Evidence{TEE: attest.TPM, Raw: raw}, attest.Endorsements{}, at)
			if f := failed(steps); f != "" || len(steps) < 5 {
				t.Fatalf("got %d steps, failed %q", len(steps), f)
			}
			der, err := x509.MarshalPKIXPublicKey(publicKey(t, k.public))
			if err != nil {
				t.Fatal(err)
			}
			id := sha256.Sum256(der)
			switch {
			case c.ReportData.String() != attest.Hex(b[:]).String():
				t.Errorf("report data: got %s, want %x", c.ReportData, b)
			case len(c.TPM.PCRs) != 3 || c.TPM.PCRs["4"].String() != attest.Hex(want[:]).String():
				t.Errorf("PCRs: got %v, want 4 to be %x", c.TPM.PCRs, want)
			case c.TPM.AttestationKey.String() != attest.Hex(id[:]).String():
				t.Errorf("key: got %s, want %x", c.TPM.AttestationKey, id)
			case c.TPM.Vouched != "" || !c.TPM.Safe || len(c.TPM.Firmware) != 8 || c.Debug:
				t.Errorf("got %+v", c.TPM)
			}
		})
	}
}

// TestJudge gives the whole verdict, by a policy that lists the key, and shows
// that another key, binding or register is refused.
func TestJudge(t *testing.T) {
	m := start(t)
	k := m.create(eccTemplate(tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, attributes()))
	b := attest.Bind([]byte("claims"))
	e := attest.Evidence{TEE: attest.TPM, Raw: encode(t, m.quote(k, b[:32], 4))}
	c, _ := tpm.NewVerifier().Verify(e, attest.Endorsements{}, at)
	zero := make(attest.Hex, 32)
	judge := func(keys, pcr4 []attest.Hex, want attest.Binding) attest.Verdict {
		p := attest.Policy{Package: attest.Package{TPM: &attest.TPMReference{AttestationKeys: keys, PCRs: map[string][]attest.Hex{"4": pcr4}}}}
		return attest.Judge(attest.NewVerifiers(tpm.NewVerifier()), e, want, attest.Endorsements{}, p, at)
	}
	mine := []attest.Hex{c.TPM.AttestationKey}
	if v := judge(mine, []attest.Hex{zero}, b); !v.OK() || !v.Genuine {
		t.Errorf("got refused: %s", failed(v.Steps))
	}
	for name, v := range map[string]attest.Verdict{
		"another key":      judge([]attest.Hex{zero}, []attest.Hex{zero}, b),
		"no key":           judge(nil, []attest.Hex{zero}, b),
		"another binding":  judge(mine, []attest.Hex{zero}, attest.Bind([]byte("other"))),
		"another register": judge(mine, []attest.Hex{make(attest.Hex, 31)}, b),
	} {
		if v.OK() || len(v.Failed()) != 1 {
			t.Errorf("%s: got accepted=%t, failed %q, want one step to fail", name, v.OK(), failed(v.Steps))
		}
	}
}

// TestEachCheck breaks one thing at a time.
func TestEachCheck(t *testing.T) {
	m := start(t)
	good := m.create(rsaTemplate(tpm2.TPMAlgRSASSA, 2048, attributes()))
	other := m.create(eccTemplate(tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, attributes()))
	free := attributes()
	free.Restricted = false
	unrestricted := m.create(rsaTemplate(tpm2.TPMAlgRSASSA, 2048, free))
	b := attest.Bind([]byte("claims"))
	base := m.quote(good, b[:32], 0, 4)
	clockAt := func(a []byte) int { // the clock follows the signer's name and the qualifying data
		n := 6 + 2 + int(binary.BigEndian.Uint16(a[6:]))
		return n + 2 + int(binary.BigEndian.Uint16(a[n:]))
	}
	for name, c := range map[string]struct {
		change func(d *tpm.Document)
		want   string
	}{
		"nothing":              {func(*tpm.Document) {}, ""},
		"another PCR value":    {func(d *tpm.Document) { d.Quote.PCRs["4"][0] ^= 1 }, "ATT-045 tpm.pcrs"},
		"a PCR more":           {func(d *tpm.Document) { d.Quote.PCRs["5"] = make(attest.Hex, 32) }, "ATT-045 tpm.pcrs"},
		"a PCR less":           {func(d *tpm.Document) { delete(d.Quote.PCRs, "4") }, "ATT-045 tpm.pcrs"},
		"a PCR renamed":        {func(d *tpm.Document) { d.Quote.PCRs["5"] = d.Quote.PCRs["4"]; delete(d.Quote.PCRs, "4") }, "ATT-045 tpm.pcrs"},
		"a short PCR":          {func(d *tpm.Document) { d.Quote.PCRs["4"] = d.Quote.PCRs["4"][:20] }, "ATT-043 tpm.quote"},
		"a PCR 24":             {func(d *tpm.Document) { d.Quote.PCRs["24"] = d.Quote.PCRs["4"] }, "ATT-043 tpm.quote"},
		"a PCR 04":             {func(d *tpm.Document) { d.Quote.PCRs["04"] = d.Quote.PCRs["4"] }, "ATT-043 tpm.quote"},
		"another nonce":        {func(d *tpm.Document) { d.Quote.Attested[clockAt(d.Quote.Attested)-1] ^= 1 }, "ATT-010 tpm.signature"},
		"a tampered clock":     {func(d *tpm.Document) { d.Quote.Attested[clockAt(d.Quote.Attested)] ^= 1 }, "ATT-010 tpm.signature"},
		"a safe flag flipped":  {func(d *tpm.Document) { d.Quote.Attested[clockAt(d.Quote.Attested)+16] ^= 1 }, "ATT-010 tpm.signature"},
		"another magic":        {func(d *tpm.Document) { d.Quote.Attested[0] = 0 }, "ATT-043 tpm.quote"},
		"a certification":      {func(d *tpm.Document) { d.Quote.Attested[5] = 0x17 }, "ATT-043 tpm.quote"},
		"a byte after the end": {func(d *tpm.Document) { d.Quote.Attested = append(d.Quote.Attested, 0) }, "ATT-043 tpm.quote"},
		"the key of another":   {func(d *tpm.Document) { d.Key = other.public }, "ATT-010 tpm.signature"},
		"a damaged signature":  {func(d *tpm.Document) { d.Quote.Signature[50] ^= 1 }, "ATT-010 tpm.signature"},
		"a longer signature":   {func(d *tpm.Document) { d.Quote.Signature = append(d.Quote.Signature, 0) }, "ATT-010 tpm.signature"},
		"a damaged key":        {func(d *tpm.Document) { d.Key = d.Key[:20] }, "ATT-044 tpm.key"},
		"no certificate":       {func(d *tpm.Document) { d.Certificates = [][]byte{{1, 2}} }, "ATT-006 tpm.chain"},
		"an unrestricted key":  {func(d *tpm.Document) { *d = m.quote(unrestricted, b[:32], 0, 4) }, "ATT-044 tpm.key"},
		"a quote of SHA-1": {func(d *tpm.Document) {
			*d = m.quoteBank(good, b[:32], selection(tpm2.TPMAlgSHA1, 0, 4), 0, 4)
		}, "ATT-043 tpm.quote"},
		"a quote of two banks": {func(d *tpm.Document) {
			two := selection(tpm2.TPMAlgSHA256, 0, 4)
			two.PCRSelections = append(two.PCRSelections, selection(tpm2.TPMAlgSHA384, 0).PCRSelections...)
			*d = m.quoteBank(good, b[:32], two, 0, 4)
		}, "ATT-043 tpm.quote"},
	} {
		t.Run(name, func(t *testing.T) {
			d := copied(base)
			c.change(&d)
			_, steps := tpm.NewVerifier().Verify(attest.Evidence{TEE: attest.TPM, Raw: encode(t, d)}, attest.Endorsements{}, at)
			if got := failed(steps); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// copied copies what a test changes.
func copied(d tpm.Document) tpm.Document {
	clone := func(b []byte) []byte { return append([]byte{}, b...) }
	out := tpm.Document{Key: clone(d.Key), Quote: tpm.Quote{Attested: clone(d.Quote.Attested), Signature: clone(d.Quote.Signature), PCRs: map[string]attest.Hex{}}}
	for n, v := range d.Quote.PCRs {
		out.Quote.PCRs[n] = clone(v)
	}
	return out
}

// TestEventLog extends a TPM by a real firmware log, quotes it, and has the log
// replay.
func TestEventLog(t *testing.T) {
	log, err := os.ReadFile("../eventlog/testdata/gcp-tpm-ubuntu.log")
	if err != nil {
		t.Fatal(err)
	}
	m := start(t)
	for _, e := range measured(t, log) {
		m.extend(e.pcr, e.digest)
	}
	k := m.create(eccTemplate(tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, attributes()))
	raw := encode(t, m.quote(k, nil, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14))
	c, steps := tpm.NewVerifier().Verify(attest.Evidence{TEE: attest.TPM, Raw: raw, EventLog: log}, attest.Endorsements{}, at)
	if f := failed(steps); f != "" || len(c.Events) != 116 {
		t.Errorf("got %d events, failed %q", len(c.Events), f)
	}
	m.extend(9, make([]byte, 32)) // after the firmware
	raw = encode(t, m.quote(k, nil, 4, 9))
	c, steps = tpm.NewVerifier().Verify(attest.Evidence{TEE: attest.TPM, Raw: raw, EventLog: log}, attest.Endorsements{}, at)
	if f := failed(steps); f != "ATT-035 eventLog.replay" || c.Events != nil || !strings.HasPrefix(steps[len(steps)-1].Got, "pcr9 ") {
		t.Errorf("got %q and %d events, want PCR 9 not to replay", f, len(c.Events))
	}
}

type extension struct {
	pcr    int
	digest []byte
}

// measured walks a log whose banks are SHA-1, SHA-256 and SHA-384, without the
// parser that is tested.
func measured(t *testing.T, log []byte) []extension {
	t.Helper()
	u32 := binary.LittleEndian.Uint32
	var all []extension
	at := 32 + int(u32(log[28:]))
	for at < len(log) {
		e := extension{pcr: int(u32(log[at:]))}
		kind, n := u32(log[at+4:]), int(u32(log[at+8:]))
		at += 12
		for range n {
			alg := binary.LittleEndian.Uint16(log[at:])
			size := map[uint16]int{4: 20, 0xb: 32, 0xc: 48}[alg]
			if size == 32 {
				e.digest = log[at+2 : at+34]
			}
			at += 2 + size
		}
		at += 4 + int(u32(log[at:]))
		if kind != 3 {
			all = append(all, e)
		}
	}
	return all
}
