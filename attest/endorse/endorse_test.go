package endorse_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/pki"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const milanChip = "d49554ec717f4e5b0fe6b143bcf0405bd7ae304727edf46603f2a76aef6a3abc15d7af38db757039029f0efacfd08e244324884738c72b082e2f87a44d541eb6"

func TestDescribeRealDocuments(t *testing.T) {
	for name, want := range map[string][]string{
		"tdx/phala-v4-b0c0": {
			"pck_crl.der crl/pck/platform 1 2025-06-19T10:00:35Z to 2025-07-19T10:00:35Z",
			"qe_identity.json qeIdentity/tdx 17 2025-06-19T10:32:27Z to 2025-07-19T10:32:27Z",
			"root_ca_crl.der crl/intel/root 1 2025-03-20T11:21:57Z to 2026-04-03T11:21:57Z",
			"tcb_info.json tcbInfo/tdx/b0c06f000000 17 2025-06-19T10:16:03Z to 2025-07-19T10:16:03Z"},
		"snp/virtee-milan-v2-vcek": {"cert_chain.pem chain/amd/Milan", "vcek.der vcek/" + milanChip + "/0003000873"},
		"snp/msft-turin-v5-vcek":   {"cert_chain.pem chain/amd/Turin", "vcek.der vcek/59790fb1c39f35c1" + strings.Repeat("0", 112) + "/0101010451"},
		"snp/trustee-vlek":         {"vlek.der vlek/Milan"},
	} {
		s := attesttest.Load(t, name)
		got := endorse.Describe(s.Endorsements)
		if len(got) != len(want) {
			t.Fatalf("%s: got %+v, want %d documents", name, got, len(want))
		}
		for i, d := range got {
			text := d.Kind + " " + d.Identity
			if d.Number > 0 {
				text += " " + fmt.Sprint(d.Number, " ", pki.Stamp(d.Issued), " to ", pki.Stamp(d.NextUpdate))
			}
			if text != want[i] || d.Error != "" {
				t.Errorf("%s: got %s %s, want %s", name, text, d.Error, want[i])
			}
		}
	}
}

func TestDescribeDamagedDocuments(t *testing.T) {
	chain := []byte("no chain")
	for name, it := range map[string]attest.Endorsement{
		"not JSON":       {Kind: attest.KindTCBInfo, Body: []byte("{"), Chain: chain},
		"no member":      {Kind: attest.KindTCBInfo, Body: []byte("{}"), Chain: chain},
		"no dates":       {Kind: attest.KindQEIdentity, Body: []byte(`{"enclaveIdentity":{"id":"QE"}}`), Chain: chain},
		"no chain":       {Kind: attest.KindQEIdentity, Body: []byte(`{"enclaveIdentity":{"id":"QE","issueDate":"2026-01-01T00:00:00Z","nextUpdate":"2026-01-02T00:00:00Z"}}`)},
		"CRL":            {Kind: attest.KindPCKCRL, Body: []byte{0x30}},
		"VCEK":           {Kind: attest.KindVCEK},
		"VLEK":           {Kind: attest.KindVLEK, Body: []byte("x")},
		"chain":          {Kind: attest.KindAMDChain, Body: []byte("x")},
		"above the size": {Kind: attest.KindRootCRL, Body: make([]byte, endorse.MaxDocument+1)},
	} {
		got := endorse.Describe(attest.NewEndorsements(it))
		if len(got) != 1 || got[0].Error == "" || got[0].Identity != "" || len(got[0].Digest) != 32 {
			t.Errorf("%s: got %+v, want one document with an error and no identity", name, got)
		}
	}
	if got := endorse.Describe(attest.NewEndorsements(attest.Endorsement{Kind: "other"})); got != nil {
		t.Errorf("got %+v of a kind that is not known, want nothing", got)
	}
}

func TestNeedOfRealEvidence(t *testing.T) {
	all := hardware.Verifiers()
	for name, want := range map[string]struct{ key, folder string }{
		"tdx/phala-v4-b0c0":           {"tdx/b0c06f000000/platform", "tdx/b0c06f000000"},
		"sgx/automata-v3-606a-eval17": {"sgx/00606a000000/platform", "sgx/00606a000000"},
		"snp/virtee-milan-v2-vcek":    {"snp/" + milanChip + "/0003000873", "snp/" + milanChip},
		"snp/msft-turin-v5-vcek":      {"snp/59790fb1c39f35c1" + strings.Repeat("0", 112) + "/0101010451", "snp/59790fb1c39f35c1" + strings.Repeat("0", 112)},
		"snp/trustee-vlek":            {"snp/vlek/Milan", "snp/vlek"},
	} {
		s := attesttest.Load(t, name)
		c, _ := all[s.Evidence.TEE].Verify(s.Evidence, attest.Endorsements{}, s.At())
		c.TEE = s.Evidence.TEE
		n, ok := endorse.NeedOf(c)
		if !ok || n.Key() != want.key || n.Folder() != want.folder {
			t.Errorf("%s: got %t %s in %s, want %s in %s", name, ok, n.Key(), n.Folder(), want.key, want.folder)
		}
		if err := n.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, d := range endorse.Describe(s.Endorsements) {
			if err := n.Fits(d); err != nil {
				t.Errorf("%s: %v, want its own documents to fit", name, err)
			}
		}
		if got := n.Only(s.Endorsements); got.Digest() != s.Endorsements.Digest() {
			t.Errorf("%s: got %d documents, want all of its own", name, len(got.Items()))
		}
	}
	if _, ok := endorse.NeedOf(attest.Claims{}); ok {
		t.Error("claims that say nothing need something")
	}
}

func TestNeedRefusesWhatDoesNotFit(t *testing.T) {
	own := attesttest.Load(t, "tdx/phala-v4-b0c0")
	n := endorse.Need{TEE: attest.TDX, FMSPC: attest.Hex{0xb0, 0xc0, 0x6f, 0, 0, 0}, CA: endorse.CAPlatform}
	for name, wrong := range map[string]endorse.Need{
		"TEE":       {TEE: attest.SGX, FMSPC: n.FMSPC, CA: n.CA},
		"FMSPC":     {TEE: n.TEE, FMSPC: attest.Hex{0, 0, 0, 0, 0, 1}, CA: n.CA},
		"CA":        {TEE: n.TEE, FMSPC: n.FMSPC, CA: endorse.CAProcessor},
		"simulated": {TEE: attest.SimTDX, FMSPC: n.FMSPC, CA: n.CA},
	} {
		bad := 0
		for _, d := range endorse.Describe(own.Endorsements) {
			if n.Fits(d) != nil {
				t.Errorf("%s does not fit its own need", d.Identity)
			}
			if wrong.Fits(d) != nil {
				bad++
			}
		}
		if bad == 0 {
			t.Errorf("another %s: every document fits", name)
		}
	}
	tcb := &attest.SNPTCB{}
	for name, bad := range map[string]endorse.Need{
		"no TEE": {}, "path": {TEE: "../x", FMSPC: n.FMSPC, CA: n.CA}, "short FMSPC": {TEE: attest.SGX, FMSPC: attest.Hex{1}, CA: n.CA},
		"no CA": {TEE: attest.SGX, FMSPC: n.FMSPC}, "no signer": {TEE: attest.SNP}, "product": {TEE: attest.SNP, Signer: "VLEK", Product: "../Milan"},
		"short chip": {TEE: attest.SNP, Signer: "VCEK", ChipID: attest.Hex{1}, TCB: tcb}, "no TCB": {TEE: attest.SNP, Signer: "VCEK", ChipID: make(attest.Hex, 64)},
	} {
		if bad.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMarks(t *testing.T) {
	load := func(name string) attest.Endorsements { return attesttest.Load(t, name).Endorsements }
	seventeen, eighteen, nineteen := load("sgx/automata-v3-606a-eval17"), load("sgx/automata-v3-606a-eval18"), load("sgx/automata-v3-606a-eval19")
	var none endorse.Marks
	if steps := none.Check(seventeen); len(steps) != 0 {
		t.Errorf("no marks: got %d steps, want none", len(steps))
	}
	m, raised := none.Raise(eighteen)
	if !raised || len(none.Documents) != 0 || len(m.Documents) != 4 {
		t.Fatalf("got %+v, want four marks, and the old ones untouched", m)
	}
	for name, c := range map[string]struct {
		set  attest.Endorsements
		want string
	}{
		"the same": {eighteen, ""}, "newer": {nineteen, ""},
		"older": {seventeen, "ATT-060 qeIdentity.notOlder, ATT-060 tcbInfo.notOlder"},
	} {
		var failed []string
		for _, s := range m.Check(c.set) {
			if !s.OK {
				failed = append(failed, s.Code+" "+s.Field)
			}
		}
		if got := strings.Join(failed, ", "); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if _, raised := m.Raise(seventeen); raised {
		t.Error("older documents raised a mark")
	}
	higher, raised := m.Raise(nineteen)
	if !raised || higher.Documents["tcbInfo/sgx/00606a000000"].Number != 19 {
		t.Errorf("got %+v, want evaluation number 19", higher)
	}
}

func TestMarksFailWhereADocumentCannotBeCompared(t *testing.T) {
	steps := endorse.Marks{}.Check(attest.NewEndorsements(attest.Endorsement{Kind: attest.KindRootCRL, Body: []byte("?")}))
	if len(steps) != 1 || steps[0].OK || steps[0].Code != endorse.CodeUnreadable {
		t.Errorf("got %+v, want one failed step with %s", steps, endorse.CodeUnreadable)
	}
}

func TestMixedSetsRaiseNothing(t *testing.T) {
	intel, amd := attesttest.Load(t, "tdx/phala-v4-b0c0").Endorsements, attesttest.Load(t, "snp/trustee-vlek").Endorsements
	both := attest.NewEndorsements(append(append([]attest.Endorsement{}, intel.Items()...), amd.Items()...)...)
	if _, raised := (endorse.Marks{}).Raise(both); raised {
		t.Error("documents that no verdict covered raised marks")
	}
}

func TestClock(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	m, raised := endorse.Marks{}.RaiseClock(noon)
	if !raised || !m.Clock.Equal(noon) {
		t.Fatalf("got %v, want %v", m.Clock, noon)
	}
	for _, c := range []struct {
		at     time.Duration
		ok     bool
		raises bool
	}{{-time.Hour, false, false}, {-endorse.ClockSlack, true, false}, {0, true, false}, {time.Minute, true, false}, {endorse.ClockSlack, true, true}} {
		if s := m.CheckClock(noon.Add(c.at)); s.OK != c.ok || s.Code != endorse.CodeClock {
			t.Errorf("%v: got %+v, want ok %t", c.at, s, c.ok)
		}
		if _, raised := m.RaiseClock(noon.Add(c.at)); raised != c.raises {
			t.Errorf("%v: raised %t, want %t", c.at, raised, c.raises)
		}
	}
	en := attesttest.Load(t, "tdx/phala-v4-b0c0").Endorsements
	if m, _ := (endorse.Marks{}).Raise(en); !m.Clock.Equal(time.Date(2025, 6, 19, 10, 32, 27, 0, time.UTC)) {
		t.Errorf("got %v, want the latest issue date", m.Clock)
	}
}

func TestBundle(t *testing.T) {
	var b endorse.Bundle
	tdx := endorse.Need{TEE: attest.TDX, FMSPC: attest.Hex{0xb0, 0xc0, 0x6f, 0, 0, 0}, CA: endorse.CAPlatform}
	sgx := endorse.Need{TEE: attest.SGX, FMSPC: attest.Hex{0, 0x60, 0x6a, 0, 0, 0}, CA: endorse.CAPlatform}
	for _, s := range []endorse.Set{{tdx, attesttest.Load(t, "tdx/phala-v4-b0c0").Endorsements}, {sgx, attesttest.Load(t, "sgx/automata-v3-606a-eval18").Endorsements}} {
		if err := b.Put(s); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := b.Export()
	if err != nil {
		t.Fatal(err)
	}
	got, err := endorse.Import(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range b.Sets() {
		if en, ok := got.Get(s.Need); !ok || en.Digest() != s.Endorsements.Digest() {
			t.Errorf("%s is not what was put in", s.Need.Key())
		}
	}
	if again, _ := got.Export(); !bytes.Equal(again, raw) {
		t.Error("exported again, the bytes differ")
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": raw[:len(raw)-3], "other version": bytes.Replace(raw, []byte(`"version": 1`), []byte(`"version": 2`), 1),
		"unknown field": bytes.Replace(raw, []byte(`"version": 1`), []byte(`"version": 1, "x": 1`), 1),
		"changed body":  bytes.Replace(raw, []byte(`"body": "ey`), []byte(`"body": "ez`), 1),
		"formatted":     append(bytes.Clone(raw), '\n'), "twice": append(bytes.Clone(raw), raw...),
		"path": bytes.Replace(raw, []byte(`"tee": "sgx"`), []byte(`"tee": "../"`), 1),
	} {
		if _, err := endorse.Import(bad); problem.CodeOf(err) != "ATT-063" {
			t.Errorf("%s: got %v, want ATT-063", name, err)
		}
	}
	if err := b.Put(endorse.Set{}); err == nil {
		t.Error("a set for nothing was accepted")
	}
}

func FuzzDescribe(f *testing.F) {
	for _, name := range []string{"tdx/phala-v4-b0c0", "snp/msft-turin-v5-vcek", "snp/trustee-vlek"} {
		for _, it := range attesttest.Load(f, name).Endorsements.Items() {
			f.Add(it.Kind, it.Body, it.Chain)
		}
	}
	f.Fuzz(func(t *testing.T, kind string, body, chain []byte) {
		en := attest.NewEndorsements(attest.Endorsement{Kind: kind, Body: body, Chain: chain})
		m, raised := endorse.Marks{}.Raise(en)
		for _, s := range m.Check(en) {
			if !s.OK && s.Code == endorse.CodeOlder {
				t.Errorf("what raised a mark (%t) is older than it", raised)
			}
		}
	})
}

func FuzzImport(f *testing.F) {
	var b endorse.Bundle
	n := endorse.Need{TEE: attest.SNP, Signer: "VLEK", Product: "Milan"}
	if err := b.Put(endorse.Set{Need: n, Endorsements: attesttest.Load(f, "snp/trustee-vlek").Endorsements}); err != nil {
		f.Fatal(err)
	}
	raw, err := b.Export()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"format":"ashlar-endorsements","version":1,"documents":{},"sets":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := endorse.Import(raw)
		if err != nil {
			return
		}
		if again, err := b.Export(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("exported again: %v, or other bytes", err)
		}
	})
}
