package inspect

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/inspect/enclave"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// sigStruct inspects a SIGSTRUCT alone.
func (f *file) sigStruct() (Finding, error) {
	b, err := f.whole(enclave.SigStructSize)
	if err != nil {
		return Finding{}, err
	}
	s, err := enclave.ParseSigStruct(b)
	if err != nil {
		return Finding{}, err
	}
	return signedEnclave("SGX enclave signature", s), nil
}

// signedEnclave reports what signatures of one enclave say.
func signedEnclave(what string, signed ...enclave.SigStruct) Finding {
	s := signed[0]
	out := Finding{What: what, Basis: Signed, Notes: []string{}}
	ids := make([][]byte, len(signed))
	for i := range signed {
		ids[i] = signed[i].UniqueID[:]
		out.add("sgx.uniqueID", attest.Hex(ids[i]).String(), true)
	}
	ref := &attest.SGXReference{UniqueID: hexList(ids...), SignerID: s.SignerID[:], ProductID: &s.ProductID, MinSecurityVersion: &s.SecurityVersion}
	out.add("sgx.signerID", ref.SignerID.String(), true)
	out.add("sgx.productID", strconv.Itoa(int(s.ProductID)), true)
	out.add("sgx.securityVersion", strconv.Itoa(int(s.SecurityVersion)), true)
	out.add("sgx.debug", string(s.Debug()), false)
	out.add("sgx.attributes", attest.Hex(s.Attributes[:]).String(), false)
	out.add("sgx.attributeMask", attest.Hex(s.AttributeMask[:]).String(), false)
	out.add("sgx.miscSelect", fmt.Sprintf("%08x", s.MiscSelect), false)
	if s.KSS() {
		ref.FamilyID, ref.ExtendedProductID = hexList(s.FamilyID[:]), hexList(s.ExtendedProdID[:])
		out.add("sgx.familyID", attest.Hex(s.FamilyID[:]).String(), true)
		out.add("sgx.extendedProductID", attest.Hex(s.ExtendedProdID[:]).String(), true)
	}
	if !s.Date.IsZero() {
		out.add("signed", s.Date.Format("2006-01-02"), false)
	}
	switch s.Debug() {
	case enclave.MayDebug:
		out.note("whoever starts this enclave may start it in debug mode: its evidence tells, and a manifest refuses that")
	case enclave.OnlyDebug:
		out.Unfit = "the enclave runs in debug mode only: sign it without debug"
	}
	if s.Provision() {
		out.note("the enclave may derive the provisioning key, which names the machine: a manifest refuses that without allowKeyAttributes")
	}
	out.Package = attest.Package{SGX: ref}
	return out
}

// binary inspects an ELF file: an enclave, or any program.
func (f *file) binary(o Options) (Finding, error) {
	b, err := enclave.ReadBinary(f, f.size)
	if errors.Is(err, enclave.ErrNoEnclave) {
		return f.program(o)
	}
	if err != nil {
		return Finding{}, err
	}
	if len(b.Signed) == 0 {
		return Finding{}, problem.New("CLI-043", "%s is an unsigned %s", f.path, b.Kind).WithNext("%s", howToSign(b.Kind, f.path))
	}
	out := signedEnclave(string(b.Kind), b.Signed...)
	if len(b.Signed) > 1 {
		out.note("the file is signed for several loaders, which measure differently: any is accepted")
	}
	if b.Config != nil {
		sum := sha256.Sum256(b.Config)
		out.add("ego.config", attest.Hex(sum[:]).String(), false)
		out.add("ego.exe", executable(b.Config), false)
	}
	return out, nil
}

// executable is what an EGo configuration names.
func executable(config json.RawMessage) string {
	var c struct {
		Exe string `json:"exe"`
	}
	if json.Unmarshal(config, &c) != nil || c.Exe == "" {
		return "-"
	}
	return c.Exe
}

func howToSign(kind enclave.Kind, path string) string {
	if kind == enclave.EGo {
		return "ego sign " + path
	}
	return "sign it, and inspect the signed file"
}

// gramine inspects a manifest of Gramine with the signature beside it.
func (f *file) gramine(text []byte) (Finding, error) {
	m, err := enclave.ReadManifest(text)
	if err != nil {
		return Finding{}, err
	}
	base, ok := strings.CutSuffix(f.path, ".manifest.sgx")
	if !ok {
		base, _ = strings.CutSuffix(f.path, ".manifest")
	}
	raw, err := readSmall(base + ".sig")
	if errors.Is(err, fs.ErrNotExist) {
		return Finding{}, problem.New("CLI-043", "%s is a Gramine manifest without %s beside it, in which MRENCLAVE stands", f.path, base+".sig").
			WithNext("gramine-sgx-sign --manifest %s --output %s", base+".manifest", base+".manifest.sgx")
	}
	if err != nil {
		return Finding{}, err
	}
	s, err := enclave.ParseSigStruct(raw)
	if err != nil {
		return Finding{}, fmt.Errorf("%s: %w", base+".sig", err)
	}
	if s.ProductID != m.ProductID || s.SecurityVersion != m.SecurityVersion {
		return Finding{}, fmt.Errorf("the manifest has product %d and security version %d, its signature %d and %d: sign it again",
			m.ProductID, m.SecurityVersion, s.ProductID, s.SecurityVersion)
	}
	out := signedEnclave("Gramine enclave", s)
	out.add("gramine.entrypoint", m.Entrypoint, false)
	out.add("gramine.trustedFiles", strconv.Itoa(m.TrustedFiles), false)
	out.note("MRENCLAVE is taken from " + base + ".sig: whether it is of this manifest shows when Gramine starts it")
	if m.Debug {
		out.Unfit = "the manifest asks for debug mode"
	}
	return out, nil
}

// readSmall reads a file of at most maxEvidence bytes.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxEvidence {
		return nil, fmt.Errorf("%s is no regular file of at most %d bytes", path, maxEvidence)
	}
	return os.ReadFile(path)
}

// program measures any other file for the software TEE.
func (f *file) program(o Options) (Finding, error) {
	program, err := sim.FileDigest(f.path)
	if err != nil {
		return Finding{}, problem.Because(err, "CLI-003", "measuring %s", f.path)
	}
	ref := &attest.SimReference{Program: hexList(program)}
	out := Finding{What: "program, for the software TEE", Basis: Calculated, Notes: []string{}, Package: attest.Package{Sim: ref}}
	out.add("sim.program", program.String(), true)
	agent, err := sim.FileDigest(o.Agent)
	switch {
	case o.Agent != "" && err == nil:
		ref.Agent = hexList(agent)
		out.add("sim.agent", agent.String(), true)
	default:
		out.note("any agent is accepted: --agent pins ashlar-marble")
	}
	out.note("no enclave, guest image or evidence: this is what the simulation measures, and protects nothing")
	return out, nil
}
