package command

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/attest/issuer/issuertest"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

// machines are what the test binary can play, by name.
var machines = map[string]func() *issuertest.Computer{
	"nothing": func() *issuertest.Computer { return &issuertest.Computer{} },
	"gramine": func() *issuertest.Computer {
		return &issuertest.Computer{Files: (&issuertest.Gramine{Type: "dcap"}).Files()}
	},
	"snp": func() *issuertest.Computer { return &issuertest.Computer{TSM: new(issuertest.SNP).TSM()} },
	"tdx": func() *issuertest.Computer {
		g := new(issuertest.TDX)
		return &issuertest.Computer{Service: g.Service, Files: map[string]issuertest.Opener{
			"/dev/tdx_guest": g.Open, "/sys/firmware/acpi/tables/CCEL": issuertest.Content([]byte("CCEL")),
			"/sys/firmware/acpi/tables/data/CCEL": issuertest.Content([]byte("event log")),
		}}
	},
}

// playMachine puts a fake machine in the place of this one.
func playMachine(name string) {
	if computer, ok := machines[name]; ok {
		host = computer().Machine
	}
}

func TestHardwareVouches(t *testing.T) {
	for name, c := range map[string]struct {
		tee  string
		want attest.TEE
		log  string
	}{
		"gramine": {"auto", attest.SGX, ""}, "snp": {"snp", attest.SNP, ""}, "tdx": {"auto", attest.TDX, "event log"},
	} {
		t.Run(name, func(t *testing.T) {
			x := newBench(t, marbletest.Behaviour{})
			b := marbletest.Behaviour{Parameters: x.parameters(map[string]string{"CODE": "0"})}
			requests := make(chan *marblepb.ActivateRequest, 1)
			b.Activated = func(r *marblepb.ActivateRequest) error {
				requests <- r
				return nil
			}
			x.coordinator.Behave(b)
			p := x.hardware(name, []string{"--tee", c.tee}, os.Args[0])
			if code := p.code(t); code != 0 {
				t.Fatalf("got exit code %d\n%s", code, p.stderr.String())
			}
			e := (<-requests).GetEvidence()
			sum := attest.Bind(e.GetClaimsBuffer())
			if e.GetTee() != string(c.want) || !bytes.Contains(e.GetRaw(), sum[:]) || string(e.GetEventLog()) != c.log {
				t.Errorf("got %s evidence of %d bytes with log %q, want %s with %q", e.GetTee(), len(e.GetRaw()), e.GetEventLog(), c.want, c.log)
			}
			if strings.Contains(p.stderr.String(), "SIMULATION") {
				t.Errorf("simulation is spoken of:\n%s", p.stderr.String())
			}
		})
	}
}

// Without a TEE nothing is started, and nothing falls back to a simulation.
func TestNoTEE(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	for _, tee := range []string{"auto", "sgx", "snp", "tdx"} {
		p := x.hardware("nothing", []string{"--tee", tee}, os.Args[0])
		if code := p.code(t); code != 4 || !strings.Contains(p.stderr.String(), "ATT-095") || !strings.Contains(p.stderr.String(), "looked for") {
			t.Errorf("%s: got exit code %d, want 4 and ATT-095:\n%s", tee, code, p.stderr.String())
		}
	}
	if _, ran := x.seen(); ran {
		t.Error("the program ran")
	}
}

func TestTEEFlags(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string // "" is accepted
	}{
		"default":         {nil, ""},
		"auto":            {[]string{"--tee", "auto"}, ""},
		"snp":             {[]string{"--tee", "snp"}, ""},
		"simulation":      {[]string{"--tee", "sim:sgx", "--sim-socket", "s"}, ""},
		"no socket":       {[]string{"--tee", "sim:sgx"}, "needs the platform's socket"},
		"socket alone":    {[]string{"--sim-socket", "s"}, "TEE auto, which is none"},
		"misspelt":        {[]string{"--tee", "sev"}, "wanted one of auto sgx"},
		"simulated snp":   {[]string{"--tee", "sim:snp", "--sim-socket", "s"}, "wanted one of"},
		"a device's":      {[]string{"--tee", "nvidia"}, "wanted one of"},
		"measured":        {[]string{"--measure", "x"}, "--measure is for simulated TEEs"},
		"measured by sim": {[]string{"--tee", "sim:tdx", "--sim-socket", "s", "--measure", "x"}, ""},
	} {
		args := append([]string{"--marble", "web", "--coordinator", "c", "--coordinator-root", "r"}, append(c.args, "--", "prog")...)
		_, err := parse(args, func(string) string { return "" })
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestDetect(t *testing.T) {
	defer func(h func() issuer.Machine) { host = h }(host)
	for name, c := range map[string]struct {
		code int
		want []string
	}{
		"gramine": {0, []string{"Gramine, /dev/attestation: sgx\n", "Occlum, /dev/sgx: no (not there)\n", "\n--tee auto takes sgx\n"}},
		"nothing": {4, []string{"EGo enclave: no", "ATT-095"}},
	} {
		playMachine(name)
		var out bytes.Buffer
		if code := Main([]string{"detect"}, &out, &out); code != c.code {
			t.Errorf("%s: got exit code %d, want %d", name, code, c.code)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: lacks %q:\n%s", name, want, out.String())
			}
		}
	}
	var out bytes.Buffer
	if code := Main([]string{"detect", "x"}, &out, &out); code != 2 {
		t.Errorf("argument: got exit code %d, want 2", code)
	}
}
