package issuer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Auto asks Open to find out which TEE it is.
const Auto attest.TEE = "auto"

// Finding is one interface that was looked for.
type Finding struct {
	Interface string       // "Gramine, /dev/attestation"
	TEEs      []attest.TEE // that it could serve
	TEE       attest.TEE   // that it does serve; empty: none
	Reason    string       // why none
}

// String returns the finding on one line.
func (f Finding) String() string {
	if f.TEE != "" {
		return f.Interface + ": " + string(f.TEE)
	}
	return f.Interface + ": no (" + f.Reason + ")"
}

// candidate is an interface to some TEE. probe makes sure that it answers.
type candidate struct {
	name  string
	tees  []attest.TEE
	named bool // chosen by its name alone, never by Auto
	probe func(context.Context, Machine) (attest.Issuer, error)
}

// candidates stand in the order in which they are tried: the narrowest first. An
// enclave around the process says more than the VM around its kernel, and what
// the kernel drives by itself more than a vTPM. A TPM alone keeps no secret from
// the owner of the machine: it has to be asked for.
var candidates = []candidate{
	{name: "EGo enclave", tees: []attest.TEE{attest.SGX}, probe: probeEGo},
	{name: "Gramine, /dev/attestation", tees: []attest.TEE{attest.SGX}, probe: probeGramine},
	{name: "Occlum, " + occlumPath, tees: []attest.TEE{attest.SGX}, probe: probeOcclum},
	{name: "configfs-tsm, /sys/kernel/config/tsm/report", tees: []attest.TEE{attest.SNP, attest.TDX, attest.CCA}, probe: probeTSM},
	{name: "SEV-SNP guest device, " + sevGuestPath, tees: []attest.TEE{attest.SNP}, probe: probeSEVGuest},
	{name: "TDX guest device, " + tdxGuestPath, tees: []attest.TEE{attest.TDX}, probe: probeTDXGuest},
	{name: "Azure vTPM, NV index 0x01400001", tees: []attest.TEE{attest.SNPAzure, attest.TDXAzure}, probe: probeAzure},
	{name: "TPM 2.0, /dev/tpmrm0, only where --tee tpm asks for it", tees: []attest.TEE{attest.TPM}, named: true, probe: probeTPM},
}

// Kinds are the TEEs that evidence can be made in, for Open, without Auto.
func Kinds() []attest.TEE {
	var kinds []attest.TEE
	for _, c := range candidates {
		for _, t := range c.tees {
			if !slices.Contains(kinds, t) {
				kinds = append(kinds, t)
			}
		}
	}
	return kinds
}

// Open returns the issuer of the named TEE, or with Auto of the TEE that the
// process runs in. ATT-095, with each thing that was looked for and what was
// there, where there is none: a simulation is never an answer.
func Open(ctx context.Context, m Machine, tee attest.TEE) (attest.Issuer, error) {
	if tee != Auto && !slices.Contains(Kinds(), tee) {
		return nil, problem.New("ATT-095", "no evidence can be made for %q; wanted %s or one of %s", tee, Auto, join(Kinds()))
	}
	var lines []string
	for _, c := range candidates {
		if tee == Auto && c.named || tee != Auto && !slices.Contains(c.tees, tee) {
			continue
		}
		issuer, finding := c.look(ctx, m)
		if issuer != nil && (tee == Auto || tee == issuer.TEE()) {
			return issuer, nil
		}
		lines = append(lines, finding.String())
	}
	what := "no TEE was found"
	if tee != Auto {
		what = fmt.Sprintf("TEE %s was not found", tee)
	}
	return nil, problem.New("ATT-095", "%s; looked for:\n  %s", what, strings.Join(lines, "\n  "))
}

// Look tries every interface and says what is there, in the order of Auto.
func Look(ctx context.Context, m Machine) []Finding {
	findings := make([]Finding, 0, len(candidates))
	for _, c := range candidates {
		_, f := c.look(ctx, m)
		findings = append(findings, f)
	}
	return findings
}

func (c candidate) look(ctx context.Context, m Machine) (attest.Issuer, Finding) {
	f := Finding{Interface: c.name, TEEs: c.tees}
	issuer, err := c.probe(ctx, m)
	if err != nil {
		f.Reason = reason(err)
		return nil, f
	}
	f.TEE = issuer.TEE()
	return issuer, f
}

// reason is short where the answer is simply that nothing is there.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "not there"
	case errors.Is(err, fs.ErrPermission):
		return "there, but this user may not open it"
	}
	if e := new(problem.Error); errors.As(err, &e) {
		return e.Detail
	}
	return err.Error()
}

func join(tees []attest.TEE) string {
	names := make([]string, len(tees))
	for i, t := range tees {
		names[i] = string(t)
	}
	return strings.Join(names, ", ")
}
