package client

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/nvidia"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/transparency"
	"github.com/ashlar-mesh/ashlar/transparency/logtest"
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/bundle/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// recorded is a bundle of a simulated deployment, and what its reader has.
func recorded(t testing.TB) (Bundle, BundleInput) {
	t.Helper()
	b, err := ParseBundle(testdata(t, "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	file, diags := manifest.ParsePolicyFile(testdata(t, "policy.json"))
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	root, err := evidence.ParseRoot([]byte(file.SimulationRoot))
	if err != nil {
		t.Fatal(err)
	}
	vs, err := sim.NewVerifiers(root)
	if err != nil {
		t.Fatal(err)
	}
	in := BundleInput{Policy: file.Policy(), Verifiers: attest.Verifiers{}, Now: b.Time.Add(time.Hour)}
	for _, v := range vs {
		in.Verifiers[v.TEE()] = v
	}
	return b, in
}

func TestVerifyBundle(t *testing.T) {
	good, _ := recorded(t)
	want := manifest.DigestOf(testdata(t, "manifest.json"))
	flip := func(p *[]byte, at int) {
		*p = bytes.Clone(*p)
		(*p)[at] ^= 1
	}
	remembered := Verified{Statement: good.Statement}.Remembered()
	for _, c := range []struct {
		name string
		edit func(*Bundle, *BundleInput)
		code problem.Code // "" passes
		step string       // code and field of a step that fails
	}{
		{"good", func(*Bundle, *BundleInput) {}, "", ""},
		{"an hour later", func(b *Bundle, in *BundleInput) { in.At = b.Time.Add(20 * time.Minute) }, "", ""},
		{"manifest wanted", func(_ *Bundle, in *BundleInput) { in.Manifest = want[:] }, "", ""},
		{"own nonce", func(b *Bundle, in *BundleInput) { in.Nonce = bytes.Clone(b.Nonce) }, "", ""},
		{"remembered", func(_ *Bundle, in *BundleInput) { in.Remembered = &remembered }, "", ""},
		{"without hashes", func(b *Bundle, _ *BundleInput) { b.Log = nil }, "", ""},

		{"zero input", func(_ *Bundle, in *BundleInput) { *in = BundleInput{} }, "CRD-100", "ATT-002 tee"},
		{"zero policy", func(_ *Bundle, in *BundleInput) { in.Policy = attest.Policy{} }, "CRD-100", "ATT-029 sim"},
		{"no clock", func(_ *Bundle, in *BundleInput) { in.Now = time.Time{} }, "CRD-124", "CRD-124 bundle.time"},
		{"of the future", func(b *Bundle, in *BundleInput) { in.Now = b.Time.Add(-time.Hour) }, "CRD-124", "CRD-124 bundle.time"},
		{"judged ten years later", func(b *Bundle, in *BundleInput) { in.At = b.Time.AddDate(10, 1, 0) }, "CRD-100", "CRD-101 root"},
		{"zero bundle", func(b *Bundle, _ *BundleInput) { *b = Bundle{} }, "CRD-121", ""},
		{"not the reader's nonce", func(_ *Bundle, in *BundleInput) { in.Nonce = make([]byte, 32) }, "CRD-100", "ATT-072 binding.nonce"},
		{"short nonce", func(_ *Bundle, in *BundleInput) { in.Nonce = []byte{1} }, "CRD-100", "ATT-072 binding.nonce"},
		{"another nonce", func(b *Bundle, _ *BundleInput) { b.Nonce = make([]byte, 32) }, "CRD-100", "ATT-072 binding.nonce"},
		{"evidence changed", func(b *Bundle, _ *BundleInput) { flip(&b.Statement.Evidence.Raw, 48+64) }, "CRD-100", "ATT-010 quote.signature"},
		{"claims buffer changed", func(b *Bundle, _ *BundleInput) { flip(&b.Statement.ClaimsBuffer, 60) }, "CRD-100", "ATT-011 reportData"},
		{"root changed", func(b *Bundle, _ *BundleInput) { b.Statement.Root = newDeployment(t).root.Raw }, "CRD-100", "ATT-075 binding.root"},
		{"root damaged", func(b *Bundle, _ *BundleInput) { b.Statement.Root = []byte{1} }, "CRD-100", "CRD-101 root"},
		{"key changed", func(b *Bundle, _ *BundleInput) { b.Statement.TLSKey = newDeployment(t).spki() }, "CRD-100", "CRD-101 certificates"},
		{"certificates of another", func(b *Bundle, _ *BundleInput) { b.Certificates = newDeployment(t).tls.Certificate }, "CRD-101", "CRD-101 certificates"},
		{"checkpoint changed", func(b *Bundle, _ *BundleInput) {
			b.Statement.Checkpoint = strings.Replace(b.Statement.Checkpoint, "\n— ", "\n\n— ", 1)
		}, "CRD-100", "CRD-101 checkpoint"},
		{"another log key", func(b *Bundle, _ *BundleInput) { b.Statement.LogKey = logtest.NewLog(3).VerifierKey() }, "CRD-100", "CRD-101 checkpoint"},
		{"checkpoint of another log", func(b *Bundle, _ *BundleInput) {
			l := logtest.NewLog(3)
			b.Statement.LogKey, b.Statement.Checkpoint = l.VerifierKey(), string(l.Note(0))
		}, "CRD-100", "CRD-122 log.acceptance"},
		{"other manifest wanted", func(_ *Bundle, in *BundleInput) { in.Manifest = make([]byte, 32) }, "CRD-102", "CRD-102 manifest.inForce"},
		{"manifest changed", func(b *Bundle, _ *BundleInput) { flip(&b.Manifest, 10) }, "CRD-123", "CRD-123 manifest.bytes"},
		{"manifest missing", func(b *Bundle, _ *BundleInput) { b.Manifest = nil }, "CRD-123", "CRD-123 manifest.bytes"},
		{"revision changed", func(b *Bundle, _ *BundleInput) { b.Statement.Revision++ }, "CRD-122", "CRD-122 log.acceptance"},
		{"entry changed", func(b *Bundle, _ *BundleInput) {
			b.Acceptance.Entry = bytes.Replace(b.Acceptance.Entry, []byte(`"actor":"first"`), []byte(`"actor":"alice"`), 1)
		}, "CRD-122", "CRD-122 log.acceptance"},
		{"entry of another kind", func(b *Bundle, _ *BundleInput) {
			b.Acceptance.Entry = bytes.Replace(b.Acceptance.Entry, []byte("manifestSet"), []byte("manifestRefused"), 1)
		}, "CRD-122", "CRD-122 log.acceptance"},
		{"entry damaged", func(b *Bundle, _ *BundleInput) { b.Acceptance.Entry = b.Acceptance.Entry[1:] }, "CRD-122", "CRD-122 log.acceptance"},
		{"without a proof", func(b *Bundle, _ *BundleInput) { b.Acceptance = nil }, "CRD-122", "CRD-122 log.acceptance"},
		{"a hash changed", func(b *Bundle, _ *BundleInput) { b.Acceptance.Proof[0] = make([]byte, 32) }, "CRD-122", "CRD-122 log.acceptance"},
		{"a hash missing", func(b *Bundle, _ *BundleInput) { b.Acceptance.Proof = b.Acceptance.Proof[1:] }, "CRD-122", "CRD-122 log.acceptance"},
		{"half a hash", func(b *Bundle, _ *BundleInput) { b.Log.Leaves = b.Log.Leaves[16:] }, "CRD-121", ""},
		{"a leaf changed", func(b *Bundle, _ *BundleInput) { flip(&b.Log.Leaves, 40) }, "LOG-055", "LOG-055 log.hashes"},
		{"a leaf missing", func(b *Bundle, _ *BundleInput) { b.Log.Leaves = b.Log.Leaves[32:] }, "LOG-055", "LOG-055 log.hashes"},
		{"hashes from elsewhere", func(b *Bundle, _ *BundleInput) { b.Log.First = 256 }, "LOG-006", "LOG-006 log.hashes"},
		{"remembered other root", func(_ *Bundle, in *BundleInput) {
			other := remembered
			other.Root = make([]byte, 32)
			in.Remembered = &other
		}, "CRD-104", "CRD-104 remembered.root"},
		{"remembered damaged", func(_ *Bundle, in *BundleInput) {
			other := remembered
			other.Checkpoint = "x"
			in.Remembered = &other
		}, "CRD-109", "CRD-109 remembered.logKey"},
		{"witnesses wanted", func(_ *Bundle, in *BundleInput) { in.Witnessing = Witnessing{AtLeast: 1} }, "LOG-082", "LOG-082 log.witnesses"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, in := recorded(t)
			c.edit(&b, &in)
			v, err := VerifyBundle(b, in)
			if problem.CodeOf(err) != c.code {
				t.Fatalf("got %v, want code %q", err, c.code)
			}
			if err == nil && (v.Root == nil || !v.Verdict.OK() || (v.Accepted == nil) != (b.Acceptance == nil)) {
				t.Errorf("got %+v, want a root, an accepted verdict, and the acceptance if it is there", v)
			}
			if err != nil && !reflect.DeepEqual(v, Verified{}) {
				t.Error("a refusal returned something")
			}
			if c.step != "" {
				failedStep(t, err, c.step)
			}
		})
	}
}

// failedStep checks that the verdict of a refusal names a step that fails.
func failedStep(t *testing.T, err error, want string) {
	t.Helper()
	var v attest.Verdict
	if err := json.Unmarshal(problem.From(err).Verdict, &v); err != nil {
		t.Fatalf("the refusal carries no verdict: %v", err)
	}
	if v.OK() {
		t.Error("the verdict of a refusal is that it is accepted")
	}
	var got []string
	for _, s := range v.Failed() {
		got = append(got, s.Code+" "+s.Field)
	}
	for _, s := range got {
		if s == want {
			return
		}
	}
	t.Errorf("got %v, want %s among them", got, want)
}

func TestAccepted(t *testing.T) {
	b, in := recorded(t)
	v, err := VerifyBundle(b, in)
	if err != nil {
		t.Fatal(err)
	}
	got := *v.Accepted
	if want := (Accepted{Seq: 2, Time: got.Time, Actor: "first", Revision: 1, Open: true}); got != want || got.Time.After(b.Time) {
		t.Errorf("got %+v, want %+v before %v", got, want, b.Time)
	}
}

func TestParseBundle(t *testing.T) {
	raw := testdata(t, "bundle.json")
	b, err := ParseBundle(raw)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.Encode(); err != nil || !bytes.Equal(again, raw) {
		t.Errorf("got other bytes, %v", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseBundle(compact.Bytes()); err != nil {
		t.Errorf("without white space: got %v", err)
	}
	edit := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("the bundle has no %s", old)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	for name, change := range map[string]func(string) string{
		"empty":             func(string) string { return "" },
		"a list":            func(string) string { return "[]" },
		"null":              func(string) string { return "null" },
		"cut":               func(s string) string { return s[:len(s)/2] },
		"tail":              func(s string) string { return s + "{}" },
		"version 3":         edit(`"version": 2`, `"version": 3`),
		"no version":        edit(`"version": 2,`, ``),
		"unknown key":       edit(`"version": 2`, `"version": 2, "more": 1`),
		"unknown below":     edit(`"claimsBuffer"`, `"more": 1, "claimsBuffer"`),
		"key twice":         edit(`"version": 2`, `"version": 2, "version": 2`),
		"twice below":       edit(`"claimsBuffer"`, `"revision": 1, "claimsBuffer"`),
		"key in upper case": edit(`"nonce"`, `"Nonce"`),
		"null value":        edit(`"version": 2`, `"version": 2, "acceptance": null`),
		"short nonce":       edit(`"nonce": "`, `"nonce": "00`),
		"digest upper case": func(s string) string { return strings.ToUpper(s[:120]) + s[120:] },
		"number as 1.0":     edit(`"revision": 1`, `"revision": 1.0`),
		"time with a zone":  edit(`Z",`, `+00:00",`),
		"base64 with a gap": edit(`"claimsBuffer": "`, `"claimsBuffer": "\n`),
		"not UTF-8":         edit(`"address": "`, "\"address\": \"\xff"),
		"too large":         func(s string) string { return s + strings.Repeat(" ", MaxBundle) },
		"too deep":          edit(`"version": 2`, `"version": `+strings.Repeat("[", 50)+strings.Repeat("]", 50)),
		"too many values":   edit(`"certificates": [`, `"certificates": [`+strings.Repeat(`"",`, 2001)),
		"nine certificates": edit(`"certificates": [`, `"certificates": [`+strings.Repeat(`"",`, 8)),
		"odd hashes":        edit(`"leaves": "`, `"leaves": "AAAA`),
	} {
		t.Run(name, func(t *testing.T) {
			if b, err := ParseBundle([]byte(change(string(raw)))); problem.CodeOf(err) != "CRD-121" || !reflect.DeepEqual(b, Bundle{}) {
				t.Errorf("got %v, want CRD-121 and nothing else", err)
			}
		})
	}
	if _, err := (Bundle{Manifest: make([]byte, MaxBundle)}).Encode(); problem.CodeOf(err) != "CRD-121" {
		t.Errorf("encoding one that is too large: got %v, want CRD-121", err)
	}
}

// portable has a client make a bundle of a deployment.
func portable(t *testing.T, d *deployment) (Bundle, error) {
	t.Helper()
	o := options()
	o.Nonce = bytes.Repeat([]byte{7}, 32)
	cl, err := Dial(t.Context(), d.serve(t, d), o)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	return cl.Portable(t.Context())
}

func synthetic() BundleInput {
	return BundleInput{Policy: anySim, Verifiers: attest.NewVerifiers(echo{}), Now: time.Now(), Nonce: bytes.Repeat([]byte{7}, 32)}
}

func TestPortable(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*deployment)
		code problem.Code
	}{
		{"good", func(*deployment) {}, ""},
		{"proof of another entry", func(d *deployment) { d.accepted-- }, "CRD-122"},
		{"no proof", func(d *deployment) { d.accepted = 99 }, "CRD-107"},
		{"manifest changed meanwhile", func(d *deployment) { d.raw = "{}" }, "CRD-102"},
		{"altered tiles", func(d *deployment) {
			d.alter = func(_ transparency.Tile, b []byte) []byte { b[0] ^= 1; return b }
		}, "LOG-055"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeployment(t)
			d.set(t, `{"version": 1}`)
			c.edit(d)
			b, err := portable(t, d)
			if problem.CodeOf(err) != c.code {
				t.Fatalf("got %v, want code %q", err, c.code)
			}
			if err != nil {
				return
			}
			file, err := b.Encode()
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseBundle(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := VerifyBundle(again, synthetic()); err != nil {
				t.Errorf("from the file: got %v", err)
			}
		})
	}
}

// TestBundleAgainstMemory holds a bundle against what its reader remembers.
func TestBundleAgainstMemory(t *testing.T) {
	d := newDeployment(t)
	d.set(t, `{"version": 1}`)
	for range maxLeaves + 700 {
		d.enter(t, "start", "", nil)
	}
	size := d.log.Size()
	b, err := portable(t, d)
	if err != nil {
		t.Fatal(err)
	}
	if b.Log.First != 768 || len(b.Log.Leaves) > 32*maxLeaves {
		t.Errorf("got hashes from entry %d, %d bytes, want from 768 and at most %d", b.Log.First, len(b.Log.Leaves), 32*maxLeaves)
	}
	fork := d.log.Fork()
	other := newDeployment(t)
	for other.log.Size() < size+3 {
		other.enter(t, "start", "", nil)
	}
	for _, c := range []struct {
		name string
		note []byte
		code problem.Code
		want string // of the step
	}{
		{"the same", fork.Note(size), "", "the same"},
		{"older", fork.Note(size - 1000), "", "the same"},
		{"as old as the hashes", fork.Note(768), "", "the same"},
		{"older than the hashes", fork.Note(767), "", "not shown: the bundle does not reach back so far"},
		{"newer", other.log.Note(size + 3), "", "an older state of it, or a fork: the bundle cannot show which"},
		{"a fork of the same size", other.log.Note(size), "LOG-051", ""},
		{"an older fork", other.log.Note(size - 1000), "LOG-051", ""},
		{"another log", logtest.NewLog(9).Note(0), "LOG-052", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := synthetic()
			r := Verified{Statement: b.Statement}.Remembered()
			in.Remembered, r.Checkpoint = &r, string(c.note)
			if c.code == "LOG-052" {
				r.LogKey = logtest.NewLog(9).VerifierKey()
			}
			v, err := VerifyBundle(b, in)
			if problem.CodeOf(err) != c.code {
				t.Fatalf("got %v, want code %q", err, c.code)
			}
			got := ""
			for _, s := range v.Verdict.Steps {
				if s.Field == "remembered.log" {
					got = s.Got
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestBundleShowsFloors checks that floors which the evidence binds come out of a
// bundle, and that others are refused.
func TestBundleShowsFloors(t *testing.T) {
	for _, c := range []struct {
		name, floors string
		code         problem.Code
	}{
		{"none", "", ""},
		{"one", `{"version":1,"floors":[{"platform":"default","floor":{"sgx":{"minTCBEvaluation":17}}}]}`, ""},
		{"damaged", `{"floors":`, "CRD-101"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeployment(t)
			nonce := bytes.Repeat([]byte{7}, 32)
			s := d.statement(nonce)
			bound, err := binding.Parse(s.ClaimsBuffer)
			if err != nil {
				t.Fatal(err)
			}
			if s.Floors = []byte(c.floors); c.floors != "" {
				sum := sha256.Sum256(s.Floors)
				bound.Floors = sum[:]
			}
			s.ClaimsBuffer = bound.Encode()
			s.Evidence = quote(s.ClaimsBuffer)
			b := Bundle{Version: bundleVersion, Time: time.Now(), Nonce: nonce, Statement: s, Certificates: d.tls.Certificate}
			in := BundleInput{Policy: anySim, Verifiers: attest.NewVerifiers(echo{}), Now: b.Time}
			v, err := VerifyBundle(b, in)
			if problem.CodeOf(err) != c.code || err == nil && (len(v.Floors.Floors) > 0) != (c.floors != "") {
				t.Errorf("got %v with %+v, want code %q", err, v.Floors, c.code)
			}
			b.Statement.Floors = append(b.Statement.Floors, ' ')
			if _, err := VerifyBundle(b, in); problem.CodeOf(err) != "CRD-100" {
				t.Errorf("other floors: got %v, want CRD-100", err)
			}
		})
	}
}

// TestUnboundDevices checks that devices which the coordinator's evidence does
// not vouch for are refused, also by a policy that names them.
func TestUnboundDevices(t *testing.T) {
	gpu := attesttest.NewGPU(t, "GH100 A01 GSP FMC LF", elliptic.P384())
	v, err := nvidia.New(gpu.Root)
	if err != nil {
		t.Fatal(err)
	}
	d := newDeployment(t)
	nonce := bytes.Repeat([]byte{7}, 32)
	s := d.statement(nonce)
	s.Evidence.Devices = []attest.Device{{Name: "gpu", TEE: attest.NVIDIA, Raw: nvidia.Encode(gpu.Report(t, [32]byte{1}), gpu.Chain)}}
	in := input(d, nonce)
	in.Verifiers = attest.NewVerifiers(echo{}, v)
	in.Policy.Package.Devices = map[string]attest.DeviceReference{"gpu": {NVIDIA: &attest.GPUReference{AllowUncheckedMeasurements: true, AllowUncheckedRevocation: true}}}
	if _, err := VerifyStatement(s, in); problem.CodeOf(err) != "CRD-100" || !strings.Contains(err.Error(), "ATT-050") {
		t.Errorf("got %v, want CRD-100 for ATT-050", err)
	}
}

// FuzzBundle reads hostile files; what is read is written the same, and judging
// it never panics and never accepts another statement.
func FuzzBundle(f *testing.F) {
	good, in := recorded(f)
	f.Add(testdata(f, "bundle.json"))
	f.Add([]byte(`{"version": 1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := ParseBundle(raw)
		if err != nil {
			return
		}
		file, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseBundle(file); err != nil || !reflect.DeepEqual(again, b) {
			t.Fatalf("got %v, want what was encoded", err)
		}
		if v, err := VerifyBundle(b, in); err == nil && (!bytes.Equal(v.Statement.ClaimsBuffer, good.Statement.ClaimsBuffer) || !bytes.Equal(b.Manifest, good.Manifest)) {
			t.Error("a forged bundle was accepted")
		}
	})
}

// BenchmarkVerifyBundle judges a bundle with the vendor's chains cached.
func BenchmarkVerifyBundle(b *testing.B) {
	bundle, in := recorded(b)
	for b.Loop() {
		if _, err := VerifyBundle(bundle, in); err != nil {
			b.Fatal(err)
		}
	}
}
