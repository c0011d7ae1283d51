package inspect_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/inspect"
	"github.com/ashlar-mesh/ashlar/inspect/launch"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// defaults are the options of the command without a flag.
func defaults() inspect.Options {
	return inspect.Options{Now: time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC), VMM: launch.QEMU, VCPUs: []int{1}, CPU: "EPYC-v4", GuestFeatures: 1, Order: launch.PerPage}
}

// write puts a file into a new folder.
func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ofSet reads a file of a golden set of evidence.
func ofSet(t *testing.T, set, name string) []byte {
	t.Helper()
	b, err := fs.ReadFile(attesttest.Dir(t, set), name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const manifestSGX = `libos.entrypoint = "web"
[sgx]
isvprodid = 65535
isvsvn = 0
[[sgx.trusted_files]]
uri = "file:web"
sha256 = "00"
`

// gramine writes a manifest, with the signature beside it.
func gramine(t *testing.T, text string, sig []byte) string {
	path := write(t, "web.manifest.sgx", []byte(text))
	if sig != nil {
		if err := os.WriteFile(strings.TrimSuffix(path, ".manifest.sgx")+".sig", sig, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestRecognised gives files names that say nothing.
func TestRecognised(t *testing.T) {
	sig := read(t, "enclave/testdata/test_enclave.sig")
	der := attesttest.Load(t, "ratls/ego-sample")
	for _, c := range []struct {
		name, path, what string
		basis            inspect.Basis
		tees             string
	}{
		{"SIGSTRUCT", write(t, "x", sig), "SGX enclave signature", inspect.Signed, "sgx"},
		{"EGo", write(t, "x", read(t, "enclave/testdata/ego.signed")), "EGo binary", inspect.Signed, "sgx"},
		{"Intel SDK", write(t, "x", read(t, "enclave/testdata/intel.signed.so")), "Intel SGX SDK enclave", inspect.Signed, "sgx"},
		{"Gramine", gramine(t, manifestSGX, sig), "Gramine enclave", inspect.Signed, "sgx"},
		{"firmware", write(t, "x", read(t, "launch/testdata/guest.fd")), "guest firmware", inspect.Calculated, "tdx snp"},
		{"IGVM", write(t, "x", read(t, "launch/testdata/guest.igvm")), "IGVM guest image", inspect.Calculated, "tdx snp"},
		{"SGX quote", write(t, "x", ofSet(t, "sgx/automata-v3-606a-2025-08", "quote.bin")), "evidence of an SGX enclave", inspect.Unverified, "sgx"},
		{"TDX quote", write(t, "x", ofSet(t, "tdx/alibaba-v5-90c0", "quote.bin")), "evidence of a TDX guest", inspect.Unverified, "tdx"},
		{"SNP report", write(t, "x", ofSet(t, "snp/msft-turin-v5-vcek", "report.bin")), "evidence of an SEV-SNP guest", inspect.Unverified, "snp"},
		{"certificate", write(t, "x", der.Certificate), "RA-TLS certificate, evidence of an SGX enclave", inspect.Unverified, "sgx"},
		{"script", write(t, "x", []byte("#!/bin/sh\n")), "program, for the software TEE", inspect.Calculated, "sim"},
		{"empty file", write(t, "x", nil), "program, for the software TEE", inspect.Calculated, "sim"},
		{"ELF file", os.Args[0], "program, for the software TEE", inspect.Calculated, "sim"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := inspect.Path(c.path, defaults())
			if err != nil {
				t.Fatal(err)
			}
			if f.What != c.what || f.Basis != c.basis || f.Source != c.path || tees(f.Package) != c.tees {
				t.Errorf("got %s, %s of %s for %s; want %s, %s for %s", f.What, f.Basis, f.Source, tees(f.Package), c.what, c.basis, c.tees)
			}
			if !slices.ContainsFunc(f.Fields, func(x inspect.Field) bool { return x.Policy }) {
				t.Error("no field becomes policy")
			}
		})
	}
}

func tees(p attest.Package) string {
	var list []string
	for name, there := range map[string]bool{"sgx": p.SGX != nil, "tdx": p.TDX != nil, "snp": p.SNP != nil, "sim": p.Sim != nil} {
		if there {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	slices.Reverse(list)
	return strings.Join(list, " ")
}

func TestRefused(t *testing.T) {
	sig := read(t, "enclave/testdata/test_enclave.sig")
	damaged := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	fd, igvm := read(t, "launch/testdata/guest.fd"), read(t, "launch/testdata/guest.igvm")
	kernel := func(o *inspect.Options) { o.Kernel = write(t, "kernel", []byte("k")) }
	volume := bytes.Repeat([]byte{0}, 4096)
	copy(volume[40:], "_FVH")
	for _, c := range []struct {
		name, path, code string
		edit             func(*inspect.Options)
	}{
		{"no file", "nofile", "CLI-003", nil},
		{"device", "/dev/null", "CLI-003", nil},
		{"SIGSTRUCT damaged", write(t, "x", damaged(sig, 970)), "CLI-040", nil},
		{"EGo binary damaged", write(t, "x", damaged(read(t, "enclave/testdata/ego.signed"), 64+144+970)), "CLI-040", nil},
		{"EGo binary unsigned", write(t, "x", read(t, "enclave/testdata/ego.unsigned")), "CLI-043", nil},
		{"Gramine without signature", gramine(t, manifestSGX, nil), "CLI-043", nil},
		{"Gramine with another's signature", gramine(t, strings.Replace(manifestSGX, "65535", "1", 1), sig), "CLI-040", nil},
		{"Gramine with a damaged signature", gramine(t, manifestSGX, damaged(sig, 970)), "CLI-040", nil},
		{"firmware damaged", write(t, "x", damaged(fd, len(fd)-0xe00)), "CLI-040", nil},
		{"firmware of nothing", write(t, "x", volume), "CLI-044", nil},
		{"firmware of another TEE", write(t, "x", fd), "CLI-044", func(o *inspect.Options) { o.TEE = attest.SGX }},
		{"unknown processor", write(t, "x", fd), "CLI-042", func(o *inspect.Options) { o.CPU = "Skylake" }},
		{"firmware under Hyper-V", write(t, "x", fd), "CLI-042", func(o *inspect.Options) { o.VMM = launch.HyperV }},
		{"initrd alone", write(t, "x", fd), "CLI-042", func(o *inspect.Options) { o.Initrd = "x" }},
		{"kernel missing", write(t, "x", fd), "CLI-003", func(o *inspect.Options) { o.Kernel = "nofile" }},
		{"IGVM damaged", write(t, "x", damaged(igvm, 40)), "CLI-040", nil},
		{"IGVM with a kernel", write(t, "x", igvm), "CLI-042", kernel},
		{"IGVM on EC2", write(t, "x", igvm), "CLI-042", func(o *inspect.Options) { o.VMM = launch.EC2 }},
		{"quote cut", write(t, "x", ofSet(t, "sgx/neg-truncated", "quote.bin")), "CLI-040", nil},
		{"certificate without evidence", write(t, "x", ofSet(t, "synthetic/sgx/synthetic-ok", "root_ca.pem")), "CLI-044", nil},
		{"folder of nothing", t.TempDir(), "ATT-040", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := defaults()
			if c.edit != nil {
				c.edit(&o)
			}
			f, err := inspect.Path(c.path, o)
			if string(problem.CodeOf(err)) != c.code {
				t.Errorf("got %+v, %v, want %s", f, err, c.code)
			}
		})
	}
}

// TestKernelIsMeasured changes each part of what is booted directly.
func TestKernelIsMeasured(t *testing.T) {
	fd := write(t, "x", read(t, "launch/testdata/guest.fd"))
	seen := map[string]string{}
	for name, parts := range map[string][3]string{"none": {}, "kernel": {"k", "", ""}, "other": {"l", "", ""}, "initrd": {"k", "i", ""}, "line": {"k", "i", "ro"}} {
		o := defaults()
		if parts[0] != "" {
			o.Kernel = write(t, "k", []byte(parts[0]))
		}
		if parts[1] != "" {
			o.Initrd = write(t, "i", []byte(parts[1]))
		}
		o.CommandLine = parts[2]
		f, err := inspect.Path(fd, o)
		if err != nil {
			t.Fatal(err)
		}
		digest := f.Package.SNP.Measurement[0].String()
		if other := seen[digest]; other != "" {
			t.Errorf("%s and %s: both measure %s", name, other, digest)
		}
		seen[digest] = name
	}
}

// TestReference says what becomes policy: nothing of debug or forged evidence,
// and unverified numbers only where somebody insists.
func TestReference(t *testing.T) {
	for _, c := range []struct {
		set, code, insisting string
	}{
		{"sgx/automata-v3-606a-2025-08", "", ""},
		{"tdx/phala-v4-b0c0", "", ""},
		{"snp/msft-turin-v5-vcek", "", ""},
		{"sgx/automata-v3-a067-debug", "CLI-026", "CLI-026"},
		{"sgx/neg-tampered-debug-bit", "CLI-026", "CLI-026"},
		{"sgx/neg-tampered-mrenclave", "CLI-026", "CLI-026"},
		{"sgx/neg-tampered-attkey", "CLI-026", "CLI-026"},
		{"snp/neg-tampered-measurement", "CLI-026", "CLI-026"},
		{"tdx/neg-tampered-rtmr3", "CLI-026", "CLI-026"},
		{"tdx/neg-expired-collateral", "CLI-041", ""},
		{"sgx/neg-wrong-fmspc", "CLI-041", ""},
		{"synthetic/sgx/synthetic-ok", "CLI-041", ""},
	} {
		t.Run(c.set, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, attesttest.Dir(t, c.set)); err != nil {
				t.Fatal(err)
			}
			f, err := inspect.Path(dir, defaults())
			if err != nil {
				t.Fatal(err)
			}
			for unverified, want := range map[bool]string{false: c.code, true: c.insisting} {
				pkg, err := f.Reference(unverified)
				if string(problem.CodeOf(err)) != want || (err != nil) != (tees(pkg) == "") {
					t.Errorf("unverified %t: got %s, %v, want %q", unverified, tees(pkg), err, want)
				}
			}
		})
	}
}

// TestReferenceAccepts judges each set under the reference values that were taken
// from it, and another set of the TEE under them.
func TestReferenceAccepts(t *testing.T) {
	references := map[string]attest.Package{}
	sets := []string{"sgx/automata-v3-606a-2025-08", "sgx/oasis-v3-606a-2022", "tdx/phala-v4-b0c0", "tdx/alibaba-v5-90c0", "snp/msft-turin-v5-vcek", "snp/msft-milan-v3-vcek"}
	for _, set := range sets {
		dir := t.TempDir()
		if err := os.CopyFS(dir, attesttest.Dir(t, set)); err != nil {
			t.Fatal(err)
		}
		f, err := inspect.Path(dir, defaults())
		if err != nil {
			t.Fatal(err)
		}
		if references[set], err = f.Reference(false); err != nil {
			t.Fatal(err)
		}
	}
	for _, set := range sets {
		for from, pkg := range references {
			v := measured(t, set, pkg)
			if want := set == from; v != want {
				t.Errorf("%s under the reference values of %s: accepted %t, want %t", set, from, v, want)
			}
		}
	}
}

// measured reports whether a set has the measurements of a package.
func measured(t *testing.T, set string, pkg attest.Package) bool {
	dir := t.TempDir()
	if err := os.CopyFS(dir, attesttest.Dir(t, set)); err != nil {
		t.Fatal(err)
	}
	f, err := inspect.Path(dir, defaults())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range (attest.Policy{Package: pkg}).Check(f.Verdict.Claims) {
		if !s.OK && (s.Code == attest.CodeMeasurement || s.Code == attest.CodeNoReference) {
			t.Logf("%s: %s wanted %s, got %s", set, s.Field, s.Want, s.Got)
			return false
		}
	}
	return true
}

// TestStatement takes the evidence out of what a coordinator says of itself. Here
// it does not bind the claims that come with it.
func TestStatement(t *testing.T) {
	s := attesttest.Load(t, "sgx/automata-v3-606a-2025-08")
	statement := apiv1.Statement{Evidence: s.Evidence, ClaimsBuffer: []byte{0xa0}, Endorsements: s.Endorsements}
	for name, doc := range map[string]any{"statement": statement, "bundle": map[string]any{"version": 1, "statement": statement}} {
		raw, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		o := defaults()
		o.At = s.At()
		f, err := inspect.Path(write(t, "x.json", raw), o)
		if err != nil {
			t.Fatal(err)
		}
		if f.What != "coordinator's statement, evidence of an SGX enclave" || f.Basis != inspect.Verified || !strings.Contains(f.Unfit, attest.CodeBinding) {
			t.Errorf("%s: got %s, %s, %q", name, f.What, f.Basis, f.Unfit)
		}
	}
	f, err := inspect.Path(write(t, "x.json", []byte(`{"evidence": {}}`)), defaults())
	if err != nil || f.Package.Sim == nil {
		t.Errorf("other JSON: got %+v, %v, want a program", f, err)
	}
}

func TestSimulatedEvidence(t *testing.T) {
	if _, err := inspect.Verdict("x", "coordinator", attest.Verdict{TEE: attest.SimTDX}); problem.CodeOf(err) != "CLI-044" {
		t.Errorf("got %v, want CLI-044", err)
	}
}

// TestLaunchEndorsement takes Google's numbers, verified only under its root.
func TestLaunchEndorsement(t *testing.T) {
	path := write(t, "x", read(t, "../attest/gcp/testdata/endorsement.binarypb"))
	o := defaults()
	o.At, o.TEE = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), attest.SNP
	f, err := inspect.Path(path, o)
	if err != nil || f.Basis != inspect.Unverified {
		t.Fatalf("without a root: got %s, %v", f.Basis, err)
	}
	if _, err := f.Reference(false); problem.CodeOf(err) != "CLI-041" {
		t.Errorf("without a root: got %v, want CLI-041", err)
	}
	if o.Root, err = evidence.ParseRoot(read(t, "../attest/gcp/testdata/root.crt")); err != nil {
		t.Fatal(err)
	}
	if f, err = inspect.Path(path, o); err != nil || f.Basis != inspect.Verified {
		t.Fatalf("under its root: got %s, %v", f.Basis, err)
	}
	pkg, err := f.Reference(false)
	const one = "20ec0dbd1c0a26d184a6f11ec5a796d68ec03c9d101bdd84c03f3d9cbbc4a292a9fad098edacfa04da0da58f20be885e"
	if err != nil || len(pkg.SNP.Measurement) < 15 || pkg.SNP.Measurement[0].String() != one || pkg.TDX != nil {
		t.Errorf("got %+v, %v", pkg, err)
	}
	o.Root = attesttest.Load(t, "synthetic/sgx/synthetic-ok").Root
	if _, err := inspect.Path(path, o); problem.CodeOf(err) != "CLI-040" {
		t.Errorf("under another root: got %v, want CLI-040", err)
	}
}

// TestOwnRoot verifies evidence of a throw-away PKI under its root.
func TestOwnRoot(t *testing.T) {
	s := attesttest.Load(t, "synthetic/tdx/synthetic-ok")
	dir := t.TempDir()
	if err := os.CopyFS(dir, attesttest.Dir(t, "synthetic/tdx/synthetic-ok")); err != nil {
		t.Fatal(err)
	}
	o := defaults()
	o.Root = s.Root
	if f, err := inspect.Path(dir, o); err != nil || f.Basis != inspect.Verified {
		t.Errorf("got %s, %v, want it verified", f.Basis, err)
	}
}

// TestEventLog replays real logs, of which no policy is made.
func TestEventLog(t *testing.T) {
	for name, want := range map[string]string{"gcp-tdx-cos.ccel": "tdx.rtmr1", "tpm-rhel8.log": "tpm.pcr4"} {
		f, err := inspect.Path(write(t, "x", read(t, "../attest/eventlog/testdata/"+name)), defaults())
		if err != nil {
			t.Fatal(err)
		}
		if f.Basis != inspect.Unverified || !slices.ContainsFunc(f.Fields, func(x inspect.Field) bool { return x.Name == want }) ||
			!slices.ContainsFunc(f.Fields, inspect.Field.Event) {
			t.Errorf("%s: got %s, %+v, want %s and events", name, f.Basis, f.Fields, want)
		}
		if _, err := f.Reference(true); problem.CodeOf(err) != "CLI-026" {
			t.Errorf("%s: got %v, want CLI-026", name, err)
		}
	}
	log := read(t, "../attest/eventlog/testdata/gcp-tdx-cos.ccel")
	if _, err := inspect.Path(write(t, "x", log[:2000]), defaults()); problem.CodeOf(err) != "CLI-040" {
		t.Errorf("cut: got %v, want CLI-040", err)
	}
}

// TestAgentIsPinned checks what pins the agent of the software TEE.
func TestAgentIsPinned(t *testing.T) {
	o := defaults()
	o.Agent = write(t, "agent", []byte("agent"))
	f, err := inspect.Path(write(t, "program", []byte("program")), o)
	if err != nil || len(f.Package.Sim.Agent) != 1 {
		t.Errorf("got %+v, %v, want an agent", f.Package.Sim, err)
	}
}

// FuzzPath inspects any bytes.
func FuzzPath(f *testing.F) {
	for _, name := range []string{"enclave/testdata/ego.signed", "launch/testdata/guest.fd", "enclave/testdata/test_enclave.sig"} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(manifestSGX))
	f.Add([]byte(`{"statement":{"evidence":{"tee":"sgx","raw":"AAAA"},"claimsBuffer":"AA=="}}`))
	path := filepath.Join(f.TempDir(), "x")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := inspect.Path(path, defaults())
		if err == nil && len(found.Fields) == 0 {
			t.Errorf("got nothing and no error of %d bytes", len(b))
		}
	})
}
