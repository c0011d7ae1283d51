package issuer_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-configfs-tsm/configfs/configfsi"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/attest/issuer/issuertest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

type files = map[string]issuertest.Opener

func enclave() issuertest.SGX {
	return issuertest.SGX{CPU: [32]byte{7}, MRENCLAVE: [32]byte{1}, MRSIGNER: [32]byte{2}, ProductID: 16, ISVSVN: 3, CPUSVN: [16]byte{12, 12}}
}

func guest() *issuertest.SNP {
	return &issuertest.SNP{Chip: [32]byte{9}, Measurement: [48]byte{4}, Policy: 0x30000, CommittedTCB: 0xd515000000000004}
}

// computers are one for each interface, with the TEE that it is.
func computers() map[string]struct {
	computer *issuertest.Computer
	tee      attest.TEE
	via      string
} {
	gramine, occlum, tdx := &issuertest.Gramine{SGX: enclave(), Type: "dcap"}, &issuertest.Occlum{SGX: enclave()}, &issuertest.TDX{}
	quote := func(version uint16) configfsi.Client {
		return issuertest.TSM("tdx_guest", 0, func(b []byte, _ uint) ([]byte, error) { return issuertest.TDXQuote(version, b), nil })
	}
	token := issuertest.TSM("arm_cca_guest", 0, func(b []byte, _ uint) ([]byte, error) { return append([]byte{0xd9, 1, 0x8f}, b...), nil })
	type one = struct {
		computer *issuertest.Computer
		tee      attest.TEE
		via      string
	}
	svsm := guest()
	svsm.Level = 2
	return map[string]one{
		"gramine":    {&issuertest.Computer{Files: gramine.Files()}, attest.SGX, "Gramine"},
		"occlum":     {&issuertest.Computer{Files: files{"/dev/sgx": occlum.Open}}, attest.SGX, "Occlum"},
		"snp":        {&issuertest.Computer{TSM: guest().TSM()}, attest.SNP, "configfs-tsm"},
		"snp svsm":   {&issuertest.Computer{TSM: svsm.TSM()}, attest.SNP, "configfs-tsm"},
		"snp device": {&issuertest.Computer{Files: files{"/dev/sev-guest": guest().Open}}, attest.SNP, "SEV-SNP guest device"},
		"tdx":        {&issuertest.Computer{TSM: quote(4)}, attest.TDX, "configfs-tsm"},
		"tdx v5":     {&issuertest.Computer{TSM: quote(5)}, attest.TDX, "configfs-tsm"},
		"tdx device": {&issuertest.Computer{Files: files{"/dev/tdx_guest": tdx.Open}, Service: tdx.Service}, attest.TDX, "TDX guest device"},
		"cca":        {&issuertest.Computer{TSM: token}, attest.CCA, "configfs-tsm"},
	}
}

func TestDetectAndIssue(t *testing.T) {
	b := attest.Bind([]byte("claims"))
	for name, c := range computers() {
		t.Run(name, func(t *testing.T) {
			for _, tee := range []attest.TEE{issuer.Auto, c.tee} {
				i, err := issuer.Open(t.Context(), c.computer.Machine(), tee)
				if err != nil {
					t.Fatalf("opening %s: %v", tee, err)
				}
				if i.TEE() != c.tee {
					t.Errorf("opening %s: got %s, want %s", tee, i.TEE(), c.tee)
				}
				e, err := i.Issue(t.Context(), b)
				if err != nil || e.TEE != c.tee || !bytes.Contains(e.Raw, b[:]) {
					t.Errorf("got %s evidence of %d bytes, %v", e.TEE, len(e.Raw), err)
				}
			}
			var served []string
			for _, f := range issuer.Look(t.Context(), c.computer.Machine()) {
				if f.TEE != "" {
					served = append(served, f.Interface)
				}
			}
			if len(served) != 1 || !strings.HasPrefix(served[0], c.via) {
				t.Errorf("served by %q, want %s", served, c.via)
			}
			if n := c.computer.Open(); n != 0 {
				t.Errorf("%d files stay open", n)
			}
		})
	}
}

// An enclave around the process counts before the VM around its kernel, and
// configfs-tsm before the device of the same guest.
func TestOrder(t *testing.T) {
	gramine, snp := &issuertest.Gramine{SGX: enclave(), Type: "dcap"}, guest()
	all := gramine.Files()
	all["/dev/sev-guest"] = snp.Open
	c := &issuertest.Computer{Files: all, TSM: snp.TSM()}
	i, err := issuer.Open(t.Context(), c.Machine(), issuer.Auto)
	if err != nil || i.TEE() != attest.SGX {
		t.Fatalf("got %v, %v, want sgx", i, err)
	}
	if i, err = issuer.Open(t.Context(), c.Machine(), attest.SNP); err != nil || i.TEE() != attest.SNP {
		t.Fatalf("by name: got %v, %v, want snp", i, err)
	}
	before := len(c.Trace())
	if _, err := i.Issue(t.Context(), attest.Bind(nil)); err != nil || len(c.Trace()) != before {
		t.Errorf("the report went through %q, %v, want configfs-tsm", c.Trace()[before:], err)
	}
}

func TestNothingFound(t *testing.T) {
	m := (&issuertest.Computer{Files: files{"/dev/sev-guest": issuertest.Failing(syscall.EACCES)}}).Machine()
	for _, c := range []struct {
		tee  attest.TEE
		want []string
	}{
		{issuer.Auto, []string{"no TEE was found", "EGo enclave: no", "Gramine, /dev/attestation: no (not there)", "Occlum, /dev/sgx: no",
			"configfs-tsm", "SEV-SNP guest device, /dev/sev-guest: no (there, but this user may not open it)", "TDX guest device, /dev/tdx_guest: no (not there)"}},
		{attest.SGX, []string{"TEE sgx was not found", "EGo", "Gramine", "Occlum"}},
		{attest.SimSGX, []string{`no evidence can be made for "sim:sgx"; wanted auto or one of sgx`}},
		{"", []string{"wanted auto"}},
		{attest.NVIDIA, []string{"wanted auto"}},
	} {
		i, err := issuer.Open(t.Context(), m, c.tee)
		if problem.CodeOf(err) != "ATT-095" || i != nil {
			t.Errorf("%q: got %v, %v, want ATT-095", c.tee, i, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %q lacks %q", c.tee, err, want)
			}
		}
	}
	_, err := issuer.Open(t.Context(), m, attest.SGX)
	if strings.Contains(err.Error(), "tdx_guest") {
		t.Errorf("sgx was looked for in %q", err)
	}
	if _, err := issuer.Open(t.Context(), issuer.Host(), attest.SGX); err != nil && strings.Contains(err.Error(), "sim") {
		t.Errorf("a simulation is spoken of: %v", err)
	}
}

// On a host with SGX, /dev/sgx is a folder or another driver.
func TestOcclumIsNoHost(t *testing.T) {
	host := issuertest.Device(func(uintptr, unsafe.Pointer) error { return syscall.ENOTTY })
	c := &issuertest.Computer{Files: files{"/dev/sgx": host}}
	if i, err := issuer.Open(t.Context(), c.Machine(), issuer.Auto); problem.CodeOf(err) != "ATT-095" {
		t.Errorf("got %v, %v, want ATT-095", i, err)
	}
}

func TestUnfitGramine(t *testing.T) {
	for _, kind := range []string{"none", "epid", ""} {
		g := &issuertest.Gramine{SGX: enclave(), Type: kind}
		_, err := issuer.Open(t.Context(), (&issuertest.Computer{Files: g.Files()}).Machine(), issuer.Auto)
		if problem.CodeOf(err) != "ATT-095" || !strings.Contains(err.Error(), `wanted "dcap"`) {
			t.Errorf("%q: got %v, want ATT-095", kind, err)
		}
	}
}

// Other code in the process may write report data of its own.
func TestGramineRace(t *testing.T) {
	for races, want := range map[int]problem.Code{1: "", 2: "", 3: "ATT-097"} {
		g := &issuertest.Gramine{SGX: enclave(), Type: "dcap"}
		i, err := issuer.Open(t.Context(), (&issuertest.Computer{Files: g.Files()}).Machine(), attest.SGX)
		if err != nil {
			t.Fatal(err)
		}
		g.Race = races
		_, err = i.Issue(t.Context(), attest.Bind([]byte("mine")))
		if got := problem.CodeOf(err); got != want {
			t.Errorf("%d races: got %v, want %q", races, err, want)
		}
	}
}

// Requests at once each get their own evidence.
func TestConcurrentIssue(t *testing.T) {
	for name, c := range computers() {
		t.Run(name, func(t *testing.T) {
			i, err := issuer.Open(t.Context(), c.computer.Machine(), issuer.Auto)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for n := range 8 {
				wg.Go(func() {
					b := attest.Bind([]byte{byte(n)})
					if e, err := i.Issue(t.Context(), b); err != nil || !bytes.Contains(e.Raw, b[:]) {
						t.Errorf("request %d: %v", n, err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// A call that hangs in the kernel holds nobody up beyond the context.
func TestIssueHonoursContext(t *testing.T) {
	hang := make(chan struct{})
	client := issuertest.TSM("tdx_guest", 0, func(b []byte, _ uint) ([]byte, error) {
		<-hang
		return issuertest.TDXQuote(4, b), nil
	})
	i, err := issuer.Open(t.Context(), (&issuertest.Computer{TSM: client}).Machine(), attest.TDX)
	if err != nil {
		t.Fatal(err)
	}
	reason := errors.New("enough")
	for range 2 { // the second waits for the first
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(reason)
		if _, err := i.Issue(ctx, attest.Bind(nil)); problem.CodeOf(err) != "ATT-096" || !errors.Is(err, reason) {
			t.Errorf("got %v, want ATT-096 for %v", err, reason)
		}
	}
	close(hang)
	if _, err := i.Issue(t.Context(), attest.Bind(nil)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestWrongAnswers(t *testing.T) {
	tsm := func(provider string, evidence func([]byte) ([]byte, error)) *issuertest.Computer {
		return &issuertest.Computer{TSM: issuertest.TSM(provider, 0, func(b []byte, _ uint) ([]byte, error) { return evidence(b) })}
	}
	short := &issuertest.Occlum{SGX: enclave(), Short: 4300}
	huge := &issuertest.Occlum{SGX: enclave(), Size: attest.MaxEvidence + 1}
	long := &issuertest.Occlum{SGX: enclave(), Short: -1}
	refused := guest()
	refused.Level = 1 // the kernel of the device has no key for VMPL 0
	for name, c := range map[string]struct {
		computer *issuertest.Computer
		want     problem.Code
		text     string
	}{
		"tdx, other data": {tsm("tdx_guest", func([]byte) ([]byte, error) { return issuertest.TDXQuote(4, []byte{1}), nil }), "ATT-097", "other report data"},
		"tdx, truncated":  {tsm("tdx_guest", func(b []byte) ([]byte, error) { return issuertest.TDXQuote(4, b)[:631], nil }), "ATT-097", "other report data"},
		"tdx, empty":      {tsm("tdx_guest", func([]byte) ([]byte, error) { return nil, nil }), "ATT-097", "of 0 bytes"},
		"tdx, huge":       {tsm("tdx_guest", func(b []byte) ([]byte, error) { return append(issuertest.TDXQuote(4, b), make([]byte, 64<<10)...), nil }), "ATT-097", "wanted 1 to 65536"},
		"tdx, v5 as v4": {tsm("tdx_guest", func(b []byte) ([]byte, error) {
			q := issuertest.TDXQuote(5, b)
			q[0] = 4
			return q, nil
		}), "ATT-097", "other report data"},
		"snp, short":     {tsm("sev_guest", func(b []byte) ([]byte, error) { return guest().Report(b, 0)[:1000], nil }), "ATT-097", "other report data"},
		"kernel fails":   {tsm("sev_guest", func([]byte) ([]byte, error) { return nil, syscall.EIO }), "ATT-096", "input/output error"},
		"cca, no echo":   {tsm("arm_cca_guest", func([]byte) ([]byte, error) { return []byte{1}, nil }), "ATT-097", "other report data"},
		"occlum, short":  {&issuertest.Computer{Files: files{"/dev/sgx": short.Open}}, "ATT-097", "other report data"},
		"occlum, huge":   {&issuertest.Computer{Files: files{"/dev/sgx": huge.Open}}, "ATT-097", "wanted 1 to 65536"},
		"occlum, beyond": {&issuertest.Computer{Files: files{"/dev/sgx": long.Open}}, "ATT-097", "into"},
		"snp, level":     {&issuertest.Computer{Files: files{"/dev/sev-guest": refused.Open}}, "ATT-096", "VMPL 0 with status 0x16"},
	} {
		t.Run(name, func(t *testing.T) {
			i, err := issuer.Open(t.Context(), c.computer.Machine(), issuer.Auto)
			if err != nil {
				t.Fatal(err)
			}
			e, err := i.Issue(t.Context(), attest.Bind([]byte("claims")))
			if problem.CodeOf(err) != c.want || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %s with %q", err, c.want, c.text)
			}
			if e.Raw != nil {
				t.Error("evidence came with the error")
			}
		})
	}
}

func TestUnknownProvider(t *testing.T) {
	client := issuertest.TSM("new_guest", 0, func([]byte, uint) ([]byte, error) { return nil, nil })
	_, err := issuer.Open(t.Context(), (&issuertest.Computer{TSM: client}).Machine(), issuer.Auto)
	if problem.CodeOf(err) != "ATT-095" || !strings.Contains(err.Error(), `provider "new_guest" is not known`) {
		t.Errorf("got %v", err)
	}
}

// disturbed writes to each entry behind its owner's back, so many times.
type disturbed struct {
	configfsi.Client
	left int
}

func (d *disturbed) WriteFile(name string, content []byte) error {
	if err := d.Client.WriteFile(name, content); err != nil {
		return err
	}
	if strings.HasSuffix(name, "/privlevel") && d.left > 0 {
		d.left--
		return d.Client.WriteFile(strings.TrimSuffix(name, "privlevel")+"inblob", make([]byte, 64))
	}
	return nil
}

func TestGenerations(t *testing.T) {
	for writes, want := range map[int]problem.Code{1: "", 2: "", 3: "ATT-096"} {
		client := &disturbed{Client: guest().TSM()}
		i, err := issuer.Open(t.Context(), (&issuertest.Computer{TSM: client}).Machine(), attest.SNP)
		if err != nil {
			t.Fatal(err)
		}
		client.left = writes
		b := attest.Bind([]byte("mine"))
		e, err := i.Issue(t.Context(), b)
		if got := problem.CodeOf(err); got != want || want == "" && !bytes.Contains(e.Raw, b[:]) {
			t.Errorf("%d foreign writes: got %v, want %q", writes, err, want)
		}
	}
}

func TestSEVGuestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		fail func(uintptr, []byte, *issuertest.Result) error
		want problem.Code
		text string
	}{
		"firmware":     {func(_ uintptr, _ []byte, r *issuertest.Result) error { r.Firmware = 0x1f; return syscall.EIO }, "ATT-096", "firmware error 0x1f"},
		"throttled":    {func(_ uintptr, _ []byte, r *issuertest.Result) error { r.VMM = 2; return syscall.EAGAIN }, "ATT-096", "throttles"},
		"no errno":     {func(_ uintptr, _ []byte, r *issuertest.Result) error { r.VMM = 7; return nil }, "ATT-096", "host error 0x7"},
		"other device": {func(uintptr, []byte, *issuertest.Result) error { return syscall.ENOTTY }, "ATT-096", "no SEV-SNP guest device"},
		"size":         {func(_ uintptr, out []byte, _ *issuertest.Result) error { out[4], out[5] = 0xff, 0xff; return nil }, "ATT-097", "65535 bytes"},
		"small":        {func(_ uintptr, out []byte, _ *issuertest.Result) error { out[5] = 0; return nil }, "ATT-097", "wanted 1184"},
	} {
		t.Run(name, func(t *testing.T) {
			g := guest()
			i, err := issuer.Open(t.Context(), (&issuertest.Computer{Files: files{"/dev/sev-guest": g.Open}}).Machine(), attest.SNP)
			if err != nil {
				t.Fatal(err)
			}
			g.Fail = c.fail
			if _, err := i.Issue(t.Context(), attest.Bind(nil)); problem.CodeOf(err) != c.want || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %s with %q", err, c.want, c.text)
			}
		})
	}
}

func TestQuoteService(t *testing.T) {
	set := func(at int, b ...byte) func([]byte) []byte {
		return func(m []byte) []byte { copy(m[at:], b); return m }
	}
	for name, c := range map[string]struct {
		answer func([]byte) []byte
		want   problem.Code
		text   string
	}{
		"good":      {nil, "", ""},
		"error":     {set(12, 5), "ATT-096", "error 0x5"},
		"version":   {set(0, 2), "ATT-096", "version 2"},
		"type":      {set(4, 9), "ATT-096", "type 9"},
		"size":      {set(8, 0), "ATT-096", "says that it has"},
		"id size":   {set(16, 17), "ATT-096", "do not make up"},
		"id wraps":  {set(16, 0xff, 0xff, 0xff, 0xff), "ATT-096", "do not make up"},
		"header":    {func(m []byte) []byte { return m[:15] }, "ATT-096", "answer of 15 bytes"},
		"cut":       {func(m []byte) []byte { m[8], m[9] = 20, 0; return m[:20] }, "ATT-096", "20 bytes"},
		"other":     {set(16+8+16+568, 0xaa), "ATT-097", "other report data"},
		"too large": {func(m []byte) []byte { return append(m, make([]byte, 1<<17)...) }, "ATT-096", "answer of"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &issuertest.TDX{Answer: c.answer}
			i, err := issuer.Open(t.Context(), (&issuertest.Computer{Files: files{"/dev/tdx_guest": g.Open}, Service: g.Service}).Machine(), attest.TDX)
			if err != nil {
				t.Fatal(err)
			}
			_, err = i.Issue(t.Context(), attest.Bind([]byte("claims")))
			if got := problem.CodeOf(err); got != c.want || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q with %q", err, c.want, c.text)
			}
		})
	}
	g := &issuertest.TDX{Tear: true}
	i, err := issuer.Open(t.Context(), (&issuertest.Computer{Files: files{"/dev/tdx_guest": g.Open}, Service: g.Service}).Machine(), attest.TDX)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Issue(t.Context(), attest.Bind(nil)); problem.CodeOf(err) != "ATT-097" {
		t.Errorf("torn report: got %v, want ATT-097", err)
	}
	g = &issuertest.TDX{}
	i, err = issuer.Open(t.Context(), (&issuertest.Computer{Files: files{"/dev/tdx_guest": g.Open}}).Machine(), attest.TDX)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Issue(t.Context(), attest.Bind(nil)); problem.CodeOf(err) != "ATT-096" || !strings.Contains(problem.From(err).Next, "6.7") {
		t.Errorf("no service: got %v, want ATT-096", err)
	}
}
