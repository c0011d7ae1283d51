package evidence

import (
	"crypto/x509"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/azure"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/attest/nvidia"
	"github.com/ashlar-mesh/ashlar/attest/snp"
	"github.com/ashlar-mesh/ashlar/attest/tdx"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Options say how to judge a set. The zero Options with a time judge it by the
// vendor's root, any measurement, no debug, UpToDate only; of AMD, which has no
// statuses, any patch level, with SMT and provisional firmware.
type Options struct {
	At time.Time
	// Root is the trust anchor; nil means Intel's, or AMD's for SEV-SNP.
	Root *x509.Certificate
	// Package is the software that is accepted; nil accepts any measurement,
	// but no debug enclave or guest.
	Package *attest.Package
	// Platform is the floor of the hardware. Where Package is nil and the
	// platform has no rules for SNP, AnySNPPlatform counts.
	Platform attest.Platform
	// PackageName and PlatformName say where both are from, for the steps.
	PackageName, PlatformName string
	// Binding is what the report data must be; nil if nobody knows.
	Binding *attest.Binding
}

// AnyPackage accepts any measurement in hardware, also with attributes that a
// package has to allow by name, but no debug enclave or guest.
func AnyPackage() attest.Package {
	sgx := &attest.SGXReference{AllowAny: true, AllowKeyAttributes: true}
	tdx := &attest.TDXReference{AllowAny: true, AllowSEPTVE: true}
	snp := &attest.SNPReference{AllowAny: true, AllowCXL: true}
	return attest.Package{SGX: sgx, TDX: tdx, SNP: snp, Azure: &attest.AzureReference{SNP: snp, TDX: tdx, AllowAny: true},
		TPM: &attest.TPMReference{AllowAny: true}}
}

// AnySNPPlatform accepts every SEV-SNP machine: any patch level of the known
// products, SMT, and firmware that is not committed. For judging archives.
func AnySNPPlatform() *attest.SNPPlatform {
	floors := map[string]attest.SNPTCB{}
	for _, product := range snp.Products() {
		floors[product] = attest.SNPTCB{}
	}
	return &attest.SNPPlatform{MinTCB: floors, AllowSMT: true, AllowProvisionalFirmware: true}
}

// Explain judges a set. Where the set has no CRL at all, revocation is not
// demanded, and the verdict says that it was not checked. A root that cannot be
// a trust anchor is an error with code ATT-042.
func Explain(s Set, o Options) (attest.Verdict, error) {
	if s.Evidence.TEE == attest.NVIDIA {
		return explainDevice(s, o)
	}
	verifiers, err := verifiersOf(s.Evidence.TEE, o.Root)
	if err != nil {
		return attest.Verdict{}, problem.Because(err, "ATT-042", "root %q", o.Root.Subject.CommonName)
	}
	p := attest.Policy{Platform: o.Platform, PackageName: o.PackageName, PlatformName: o.PlatformName}
	if o.Package != nil {
		p.Package = *o.Package
	} else {
		p.Package = AnyPackage()
		if p.Platform.SNP == nil {
			p.Platform.SNP = AnySNPPlatform()
		}
	}
	p.Platform.Endorsements.AllowUncheckedRevocation = !s.HasCRL
	if o.Binding != nil {
		return attest.Judge(verifiers, s.Evidence, *o.Binding, s.Endorsements, p, o.At), nil
	}
	return attest.JudgeUnbound(verifiers, s.Evidence, s.Endorsements, p, o.At), nil
}

// deviceName is what a device is called that comes without a TEE.
const deviceName = "device"

// AnyDevice accepts any genuine device that comes without a TEE.
func AnyDevice() map[string]attest.DeviceReference {
	return map[string]attest.DeviceReference{deviceName: {NVIDIA: &attest.GPUReference{AllowUncheckedMeasurements: true, AllowUncheckedRevocation: true}}}
}

// explainDevice judges a device that comes without the TEE that uses it: by the
// package's only device, or as AnyDevice does.
func explainDevice(s Set, o Options) (attest.Verdict, error) {
	v := nvidia.NewVerifier()
	if o.Root != nil {
		var err error
		if v, err = nvidia.New(o.Root); err != nil {
			return attest.Verdict{}, problem.Because(err, "ATT-042", "root %q", o.Root.Subject.CommonName)
		}
	}
	devices := AnyDevice()
	if o.Package != nil {
		devices = o.Package.Devices
	}
	var reference attest.DeviceReference
	if len(devices) == 1 {
		for _, reference = range devices {
		}
	}
	p := attest.Policy{Package: attest.Package{Devices: map[string]attest.DeviceReference{deviceName: reference}}}
	d := attest.JudgeDevice(attest.NewVerifiers(v), attest.Device{Name: deviceName, TEE: attest.NVIDIA, Raw: s.Evidence.Raw}, s.Endorsements, p, o.At)
	out := attest.Verdict{TEE: d.TEE, Genuine: d.Genuine, Advisories: []string{}, Claims: d.Claims, Steps: d.Steps, Verdict: attest.Refused}
	if d.Genuine && d.Refused() == nil {
		out.Verdict = attest.Accepted
	}
	return out, nil
}

// verifiersOf returns the verifier of a hardware TEE under a root, nil meaning
// the vendor's own; for any other TEE one that it has no use for.
func verifiersOf(tee attest.TEE, root *x509.Certificate) (attest.Verifiers, error) {
	v, err := verifierOf(tee, root)
	if err != nil {
		return nil, err
	}
	verifiers := attest.NewVerifiers(v)
	if tee == attest.SNPAzure || tee == attest.TDXAzure {
		vm, err := azure.New(v)
		if err != nil {
			return nil, err
		}
		verifiers[tee] = vm
	}
	return verifiers, nil
}

// verifierOf returns the verifier of the hardware beneath a TEE.
func verifierOf(tee attest.TEE, root *x509.Certificate) (attest.Verifier, error) {
	intel := root
	if intel == nil {
		intel = dcap.IntelRoot()
	}
	switch tee {
	case attest.SNP, attest.SNPAzure:
		if root == nil {
			return snp.NewVerifier(), nil
		}
		return snp.New(snp.Config{Roots: []*x509.Certificate{root}})
	case attest.TPM:
		if root == nil {
			return tpm.NewVerifier(), nil
		}
		return tpm.New(tpm.Config{Roots: []*x509.Certificate{root}})
	case attest.TDX, attest.TDXAzure:
		return tdx.New(intel)
	default:
		return dcap.New(dcap.Config{TEE: attest.SGX, Root: intel})
	}
}
