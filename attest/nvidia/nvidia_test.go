package nvidia_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/nvidia"
)

var at = time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)

// parts are a golden set, taken apart.
type parts struct{ report, chain []byte }

func golden(t testing.TB, name string) parts {
	t.Helper()
	raw := attesttest.Load(t, "nvidia/"+name).Evidence.Raw
	var doc []struct{ Evidence, Certificate []byte }
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	return parts{doc[0].Evidence, doc[0].Certificate}
}

// failed lists the steps that do not hold.
func failed(steps []attest.Step) string {
	var out []string
	for _, s := range steps {
		if !s.OK {
			out = append(out, s.Code+" "+s.Field)
		}
	}
	return strings.Join(out, ", ")
}

func verify(raw []byte, when time.Time) (attest.Claims, string) {
	c, steps := nvidia.NewVerifier().Verify(attest.Evidence{TEE: attest.NVIDIA, Raw: raw}, attest.Endorsements{}, when)
	return c, failed(steps)
}

func TestClaims(t *testing.T) {
	for _, c := range []struct{ set, architecture, driver, vbios, nonce, second string }{
		{"hopper-h100", "Hopper", "550.90.07", "96.00.9F.00.01", "931d8dd0", "8048dfd18fe229bf"},
		{"blackwell-gb100", "Blackwell", "590.48.01", "97.00.E4.00.11", "cb86922a", "832c61296855ac52"},
	} {
		t.Run(c.set, func(t *testing.T) {
			claims, bad := verify(attesttest.Load(t, "nvidia/"+c.set).Evidence.Raw, at)
			g := claims.GPU
			if bad != "" || g == nil {
				t.Fatalf("got %q, want no failed step", bad)
			}
			if g.Architecture != c.architecture || g.Driver != c.driver || g.VBIOS != c.vbios {
				t.Errorf("got %s, driver %s, VBIOS %s", g.Architecture, g.Driver, g.VBIOS)
			}
			if !strings.HasPrefix(g.Nonce.String(), c.nonce) || !strings.HasPrefix(g.Measurements["2"].String(), c.second) || len(g.Measurements) != 64 {
				t.Errorf("got nonce %s, measurement 2 %s of %d", g.Nonce, g.Measurements["2"], len(g.Measurements))
			}
			if g.RIMChecked || g.OCSPChecked {
				t.Error("the evidence alone cannot tell of RIM and OCSP")
			}
		})
	}
}

// TestMutations changes each part of real evidence; each change must be refused
// at its own step.
func TestMutations(t *testing.T) {
	const record = 37 + 8
	flip := func(at int) func(*parts) {
		return func(p *parts) { p.report[at] ^= 1 }
	}
	opaque := record + 64*55 + 32
	certificate := func(change func([]*pem.Block) []*pem.Block) func(*parts) {
		return func(p *parts) { p.chain = blocks(change(unblock(p.chain))) }
	}
	const signature = "ATT-010 report.signature"
	for _, c := range []struct {
		name   string
		change func(*parts)
		want   string
	}{
		{"nothing", func(*parts) {}, ""},
		{"nonce", flip(4), signature},
		{"slot", flip(36), signature},
		{"a measurement", flip(record + 55 + 7), signature},
		{"the GPU's nonce", flip(record + 64*55), signature},
		{"driver version", func(p *parts) { p.report[bytes.Index(p.report, []byte("550.90"))]++ }, signature},
		{"signature r", func(p *parts) { p.report[len(p.report)-96] ^= 1 }, signature},
		{"signature s", func(p *parts) { p.report[len(p.report)-1] ^= 1 }, signature},
		{"signature zero", func(p *parts) { clear(p.report[len(p.report)-96:]) }, signature},
		{"SPDM 1.2", func(p *parts) { p.report[0] = 0x12 }, "ATT-004 report.version"},
		{"response of SPDM 1.0", func(p *parts) { p.report[37] = 0x10 }, "ATT-004 report.version"},
		{"no request", func(p *parts) { p.report[1] = 0xe1 }, "ATT-003 report.format"},
		{"unsigned request", func(p *parts) { p.report[2] = 0 }, "ATT-003 report.format"},
		{"one measurement asked for", func(p *parts) { p.report[3] = 1 }, "ATT-003 report.format"},
		{"fewer blocks", func(p *parts) { p.report[41]-- }, "ATT-003 report.format"},
		{"more blocks", func(p *parts) { p.report[41]++ }, "ATT-003 report.format"},
		{"record length", func(p *parts) { p.report[42]++ }, "ATT-003 report.format"},
		{"record of 16 MB", func(p *parts) { p.report[44] = 0xff }, "ATT-003 report.format"},
		{"a measurement twice", func(p *parts) { p.report[record+55] = 1 }, "ATT-003 report.format"},
		{"a measurement of another form", func(p *parts) { p.report[record+1] = 2 }, "ATT-003 report.format"},
		{"a measurement of another size", func(p *parts) { p.report[record+5]-- }, "ATT-003 report.format"},
		{"opaque length", func(p *parts) { p.report[opaque]++ }, "ATT-003 report.format"},
		{"an opaque field's length", func(p *parts) { binary.LittleEndian.PutUint16(p.report[opaque+4:], 60000) }, "ATT-003 report.format"},
		{"an opaque field twice", func(p *parts) { p.report[opaque+2+12] = 6 }, "ATT-003 report.format"},
		{"cut short", func(p *parts) { p.report = p.report[:len(p.report)-1] }, "ATT-003 report.format"},
		{"a byte more", func(p *parts) { p.report = append(p.report, 0) }, "ATT-003 report.format"},
		{"empty report", func(p *parts) { p.report = nil }, "ATT-003 report.format"},
		{"no chain", func(p *parts) { p.chain = nil }, "ATT-003 report.format"},
		{"chain of garbage", func(p *parts) { p.chain = []byte("PEM") }, "ATT-006 device.chain"},
		{"root left out", certificate(func(b []*pem.Block) []*pem.Block { return b[:4] }), ""},
		{"root alone", certificate(func(b []*pem.Block) []*pem.Block { return b[4:] }), "ATT-006 device.chain"},
		{"intermediate left out", certificate(func(b []*pem.Block) []*pem.Block { return append(b[:1:1], b[2:]...) }), "ATT-006 device.chain"},
		{"leaf left out", certificate(func(b []*pem.Block) []*pem.Block { return b[1:] }), "ATT-006 device.chain"},
		{"order changed", certificate(func(b []*pem.Block) []*pem.Block { b[1], b[2] = b[2], b[1]; return b }), "ATT-006 device.chain"},
		{"leaf's signature", certificate(func(b []*pem.Block) []*pem.Block { b[0].Bytes[len(b[0].Bytes)-1] ^= 1; return b }), "ATT-006 device.chain"},
		{"leaf of another GPU", func(p *parts) { p.chain = golden(t, "blackwell-gb100").chain }, signature + ", ATT-053 report.fwid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := golden(t, "hopper-h100")
			p.report = bytes.Clone(p.report)
			c.change(&p)
			if _, got := verify(nvidia.Encode(p.report, p.chain), at); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func unblock(chain []byte) []*pem.Block {
	var out []*pem.Block
	for b, rest := pem.Decode(chain); b != nil; b, rest = pem.Decode(rest) {
		out = append(out, b)
	}
	return out
}

func blocks(bs []*pem.Block) []byte {
	var out []byte
	for _, b := range bs {
		out = append(out, pem.EncodeToMemory(b)...)
	}
	return out
}

func TestValidity(t *testing.T) {
	raw := attesttest.Load(t, "nvidia/hopper-h100").Evidence.Raw
	if _, got := verify(raw, time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC)); got != "ATT-030 device.validity" {
		t.Errorf("before the certificates: got %q", got)
	}
}

// TestLabels checks what stands beside the report.
func TestLabels(t *testing.T) {
	p := golden(t, "hopper-h100")
	nonce := strings.Repeat("0", 64)
	for name, c := range map[string]struct{ text, want string }{
		"another architecture": {`[{"arch":"BLACKWELL",%s}]`, "ATT-025 report.label"},
		"another nonce":        {`[{"nonce":"` + nonce + `",%s}]`, "ATT-025 report.label"},
		"nonce of garbage":     {`[{"nonce":"x",%s}]`, "ATT-025 report.label"},
		"right":                {`[{"arch":"hopper",%s}]`, ""},
		"no array":             {` {%s}`, ""},
		"further members":      {`[{"version":2,%s}]`, ""},
		"two GPUs":             {`[{%s},{}]`, "ATT-003 report.format"},
		"none":                 {`[]`, "ATT-003 report.format"},
		"no JSON":              {`report`, "ATT-003 report.format"},
		"empty object":         {`{}`, "ATT-003 report.format"},
	} {
		t.Run(name, func(t *testing.T) {
			body := `"evidence":"` + base64.StdEncoding.EncodeToString(p.report) + `","certificate":"` + base64.StdEncoding.EncodeToString(p.chain) + `"`
			if _, got := verify([]byte(strings.Replace(c.text, "%s", body, 1)), at); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	for _, set := range []string{"hopper-h100", "blackwell-gb100", "hopper-h100-badsig"} {
		p := golden(f, set)
		f.Add(p.report, p.chain)
	}
	v := nvidia.NewVerifier()
	good := map[string]bool{}
	for _, set := range []string{"hopper-h100", "blackwell-gb100"} {
		good[string(golden(f, set).report)] = true
	}
	f.Fuzz(func(t *testing.T, report, chain []byte) {
		_, steps := v.Verify(attest.Evidence{TEE: attest.NVIDIA, Raw: nvidia.Encode(report, chain)}, attest.Endorsements{}, at)
		if failed(steps) == "" && !good[string(report)] {
			t.Errorf("accepted a report that no GPU made: %x", report)
		}
	})
}
