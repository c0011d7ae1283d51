package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/attest/issuer/issuertest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func snpGuest() *issuertest.SNP {
	return &issuertest.SNP{Chip: [32]byte{1}, Measurement: [48]byte{2}, Policy: 0x30000, CommittedTCB: 7}
}

func snpMachine(g *issuertest.SNP) *issuer.Machine {
	c := &issuertest.Computer{TSM: g.TSM(), Files: map[string]issuertest.Opener{"/dev/sev-guest": g.Open}}
	m := c.Machine()
	return &m
}

func sgxMachine(e issuertest.SGX) *issuer.Machine {
	c := &issuertest.Computer{Files: map[string]issuertest.Opener{"/dev/sgx": (&issuertest.Occlum{SGX: e}).Open}}
	m := c.Machine()
	return &m
}

// inside is the configuration of a coordinator on a machine.
func inside(state string, tee attest.TEE, policy string, m *issuer.Machine) Config {
	return Config{State: state, TEE: tee, Seal: policy, Machine: m, ClientAddr: "127.0.0.1:0", MeshAddr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0"}
}

// opens reports with which code the state opens.
func opens(t *testing.T, c Config) problem.Code {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.Ready = func(Addresses) { cancel() }
	return problem.CodeOf(Run(ctx, c))
}

func TestStateInSNP(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	if err := Init(t.Context(), inside(state, attest.SNP, "unique", snpMachine(snpGuest()))); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*issuertest.SNP)) *issuer.Machine {
		g := snpGuest()
		change(g)
		return snpMachine(g)
	}
	for name, c := range map[string]struct {
		config Config
		want   problem.Code
	}{
		"same":              {inside(state, attest.SNP, "unique", snpMachine(snpGuest())), ""},
		"detected":          {inside(state, "", "unique", snpMachine(snpGuest())), ""},
		"firmware update":   {inside(state, attest.SNP, "unique", with(func(g *issuertest.SNP) { g.CommittedTCB = 9 })), ""},
		"firmware rollback": {inside(state, attest.SNP, "unique", with(func(g *issuertest.SNP) { g.CommittedTCB = 6 })), "STO-013"},
		"other chip":        {inside(state, attest.SNP, "unique", with(func(g *issuertest.SNP) { g.Chip[0]++ })), "STO-015"},
		"other image":       {inside(state, attest.SNP, "unique", with(func(g *issuertest.SNP) { g.Measurement[0]++ })), "STO-015"},
		"debug guest":       {inside(state, attest.SNP, "unique", with(func(g *issuertest.SNP) { g.Policy |= 1 << 19 })), "STO-015"},
		"other policy":      {inside(state, attest.SNP, "product", snpMachine(snpGuest())), ""}, // SEV-SNP has none: it stays as it is
		"other TEE":         {inside(state, "", "unique", sgxMachine(issuertest.SGX{})), "STO-015"},
		"no TEE":            {inside(state, "", "unique", snpless()), "ATT-095"},
	} {
		t.Run(name, func(t *testing.T) {
			// Each opens a copy: what opens after an update is sealed anew.
			c.config.State = filepath.Join(t.TempDir(), "state")
			if err := os.CopyFS(c.config.State, os.DirFS(state)); err != nil {
				t.Fatal(err)
			}
			if got := opens(t, c.config); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func snpless() *issuer.Machine {
	m := (&issuertest.Computer{}).Machine()
	return &m
}

func TestStateInSGX(t *testing.T) {
	enclave := issuertest.SGX{CPU: [32]byte{3}, MRENCLAVE: [32]byte{4}, MRSIGNER: [32]byte{5}, ProductID: 1, ISVSVN: 2, CPUSVN: [16]byte{7}}
	next := enclave // a new release after a microcode update
	next.MRENCLAVE[0], next.ISVSVN, next.CPUSVN[0] = 9, 3, 8
	for policy, want := range map[string]problem.Code{"product": "", "unique": "STO-015"} {
		state := filepath.Join(t.TempDir(), policy)
		if err := Init(t.Context(), inside(state, issuer.Auto, policy, sgxMachine(enclave))); err != nil {
			t.Fatal(err)
		}
		if got := opens(t, inside(state, attest.SGX, policy, sgxMachine(enclave))); got != "" {
			t.Errorf("%s: got %q", policy, got)
		}
		if got := opens(t, inside(state, attest.SGX, policy, sgxMachine(next))); got != want {
			t.Errorf("%s, next release: got %q, want %q", policy, got, want)
		}
	}
}

// Where there is no key that would do, no state is made, and the error says what
// to use instead.
func TestNoSealingKeyNoState(t *testing.T) {
	tdx := new(issuertest.TDX)
	computer := &issuertest.Computer{Files: map[string]issuertest.Opener{"/dev/tdx_guest": tdx.Open}, Service: tdx.Service}
	guest := computer.Machine()
	for name, c := range map[string]struct {
		machine *issuer.Machine
		policy  string
		want    problem.Code
		next    string
	}{
		"tdx":            {&guest, "product", "ATT-098", "SEV-SNP"},
		"product of snp": {snpMachine(snpGuest()), "product", "STO-013", "--seal unique"},
		"zeros":          {sgxMachine(issuertest.SGX{ZeroKeys: true}), "product", "STO-013", "inside the TEE"},
		"nothing at all": {snpless(), "product", "ATT-095", "inside the TEE"},
	} {
		state := filepath.Join(t.TempDir(), "state")
		err := Init(t.Context(), inside(state, issuer.Auto, c.policy, c.machine))
		if problem.CodeOf(err) != c.want || !strings.Contains(problem.From(err).Next, c.next) {
			t.Errorf("%s: got %v, next %q, want %s with %q", name, err, problem.From(err).Next, c.want, c.next)
		}
		if _, err := os.Stat(filepath.Join(state, "seal.json")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a sealed key was left, %v", name, err)
		}
	}
}

func TestSimulationIsAllOrNothing(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"root alone":   func(c *Config) { c.SimRoot = "root.pem" },
		"socket alone": func(c *Config) { c.SimSocket = "platform.sock" },
	} {
		c := inside(t.TempDir(), issuer.Auto, "unique", snpMachine(snpGuest()))
		edit(&c)
		if err := Init(t.Context(), c); problem.CodeOf(err) != "CRD-130" || !strings.Contains(err.Error(), "together") {
			t.Errorf("%s: got %v, want CRD-130", name, err)
		}
	}
}
