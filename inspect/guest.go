package inspect

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/inspect/launch"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxKernel bounds a kernel and an initrd, in bytes: they are hashed as they are
// read.
const maxKernel = 1 << 30

// image is firmware or an IGVM file: what can be launched.
type image interface {
	HasSNP() bool
	HasTDX() bool
	TDX(launch.Order) (launch.Digest, error)
}

// chosen returns which TEEs to measure an image for.
func (f *file) chosen(i image, o Options) (snp, tdx bool, err error) {
	snp, tdx = i.HasSNP() && (o.TEE == "" || o.TEE == attest.SNP), i.HasTDX() && (o.TEE == "" || o.TEE == attest.TDX)
	if !snp && !tdx {
		what := "SEV-SNP or TDX"
		if o.TEE != "" {
			what = string(o.TEE)
		}
		return false, false, problem.New("CLI-044", "%s says nothing of how it is launched for %s", f.path, what)
	}
	return snp, tdx, nil
}

// firmware inspects an OVMF image.
func (f *file) firmware(o Options) (Finding, error) {
	b, err := f.whole(launch.MaxImage)
	if err != nil {
		return Finding{}, err
	}
	fw, err := launch.ReadFirmware(b)
	if err != nil {
		return Finding{}, err
	}
	snp, tdx, err := f.chosen(fw, o)
	if err != nil {
		return Finding{}, err
	}
	kernel, err := o.kernel()
	if err != nil {
		return Finding{}, err
	}
	out := Finding{What: "guest firmware", Basis: Calculated, Notes: []string{}}
	if snp {
		if err := out.firmwareSNP(fw, o, kernel); err != nil {
			return Finding{}, err
		}
	}
	if tdx {
		if err := out.tdx(fw, o); err != nil {
			return Finding{}, err
		}
	}
	switch {
	case kernel == nil:
		out.note("the kernel is not in these numbers: whatever the firmware boots is accepted, unless --kernel or further registers say more")
	case tdx:
		out.note("MRTD does not cover the kernel: of TDX, rtmr1 and rtmr2 do")
	}
	return out, nil
}

// kernel hashes what is booted directly; nil if nothing is.
func (o Options) kernel() (*launch.Kernel, error) {
	if o.Kernel == "" {
		if o.Initrd != "" || o.CommandLine != "" {
			return nil, problem.New("CLI-042", "an initrd or a command line without a kernel")
		}
		return nil, nil
	}
	k := &launch.Kernel{Initrd: sha256.Sum256(nil), CommandLine: o.CommandLine}
	var err error
	if k.Image, err = hashFile(o.Kernel); err == nil && o.Initrd != "" {
		k.Initrd, err = hashFile(o.Initrd)
	}
	return k, err
}

// hashFile hashes a kernel or an initrd.
func hashFile(path string) ([sha256.Size]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return [sha256.Size]byte{}, problem.Because(err, "CLI-003", "reading %s", path)
	}
	defer func() { _ = f.Close() }() // only read from
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxKernel+1))
	if err == nil && n > maxKernel {
		err = fmt.Errorf("more than %d bytes", maxKernel)
	}
	if err != nil {
		return [sha256.Size]byte{}, problem.Because(err, "CLI-003", "reading %s", path)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// firmwareSNP adds the launch digests of firmware, one for each number of
// processors.
func (out *Finding) firmwareSNP(fw *launch.Firmware, o Options, kernel *launch.Kernel) error {
	cpu, err := launch.CPUSignature(o.CPU)
	if err != nil {
		return problem.Because(err, "CLI-042", "--vcpu-type")
	}
	if o.VMM == launch.HyperV {
		return problem.New("CLI-042", "%s launches IGVM files, not firmware images", o.VMM)
	}
	var digests [][]byte
	for _, n := range o.VCPUs {
		d, err := fw.SNP(launch.SNPOptions{VMM: o.VMM, VCPUs: n, CPU: cpu, GuestFeatures: o.GuestFeatures, Kernel: kernel})
		if err != nil {
			return unfitting(err)
		}
		digests = append(digests, d[:])
		out.add("snp.measurement", attest.Hex(d[:]).String(), true)
		out.add("snp.vcpus", strconv.Itoa(n), false)
	}
	out.add("snp.vcpuType", o.CPU, false)
	out.add("snp.guestFeatures", fmt.Sprintf("%#x", o.GuestFeatures), false)
	out.add("snp.vmm", string(o.VMM), false)
	if kernel != nil {
		out.add("snp.kernel", attest.Hex(kernel.Image[:]).String(), false)
		out.add("snp.initrd", attest.Hex(kernel.Initrd[:]).String(), false)
		out.add("snp.commandLine", strconv.Quote(kernel.CommandLine), false)
	}
	out.Package.SNP = &attest.SNPReference{Measurement: hexList(digests...)}
	out.note("the launch digest holds for this number and type of processors under " + string(o.VMM) + "; a manifest's platform needs snp rules")
	return nil
}

// unfitting gives options that an image cannot be launched with their code.
func unfitting(err error) error {
	if errors.Is(err, launch.ErrAbsent) {
		return problem.Because(err, "CLI-042", "the image cannot be launched so")
	}
	return err
}

// tdx adds MRTD.
func (out *Finding) tdx(i image, o Options) error {
	d, err := i.TDX(o.Order)
	if err != nil {
		return err
	}
	out.add("tdx.mrtd", attest.Hex(d[:]).String(), true)
	out.add("tdx.order", string(o.Order), false)
	out.Package.TDX = &attest.TDXReference{MRTD: hexList(d[:])}
	out.note("rtmr0 to rtmr3 depend on the VMM, the firmware's settings and the kernel's version: take them from a quote of a guest that you trust")
	return nil
}

// igvm inspects an IGVM file.
func (f *file) igvm(o Options) (Finding, error) {
	if o.Kernel != "" || o.Initrd != "" || o.CommandLine != "" {
		return Finding{}, problem.New("CLI-042", "an IGVM file holds all that is launched: it takes no kernel")
	}
	b, err := f.whole(launch.MaxImage)
	if err != nil {
		return Finding{}, err
	}
	g, err := launch.ReadIGVM(b)
	if err != nil {
		return Finding{}, err
	}
	snp, tdx, err := f.chosen(g, o)
	if err != nil {
		return Finding{}, err
	}
	out := Finding{What: "IGVM guest image", Basis: Calculated, Notes: []string{}}
	if snp {
		if err := out.igvmSNP(g, o); err != nil {
			return Finding{}, err
		}
	}
	if tdx {
		if err := out.tdx(g, o); err != nil {
			return Finding{}, err
		}
	}
	return out, nil
}

// Bits of an SEV-SNP guest policy (AMD 56860, GUEST_POLICY).
const (
	policyMigrate = 1 << 18
	policyDebug   = 1 << 19
)

// igvmSNP adds the launch digest of an IGVM file.
func (out *Finding) igvmSNP(g *launch.IGVM, o Options) error {
	d, err := g.SNP(o.VMM)
	if err != nil {
		return problem.Because(err, "CLI-042", "the image cannot be launched so")
	}
	ref := &attest.SNPReference{Measurement: hexList(d[:])}
	out.Package.SNP = ref
	out.add("snp.measurement", attest.Hex(d[:]).String(), true)
	out.add("snp.vmm", string(o.VMM), false)
	if policy, ok := g.SNPPolicy(); ok {
		out.add("snp.policy", fmt.Sprintf("%#x", policy), false)
		if policy&policyDebug != 0 {
			out.Unfit = "the file's guest policy allows debugging: the host can read the guest's memory"
		}
		if policy&policyMigrate != 0 {
			out.note("the guest may have a migration agent, which then holds its keys: a manifest refuses that without allowMigration")
		}
	}
	if id, ok := g.SNPIDBlock(); ok {
		if id.Digest != d {
			return fmt.Errorf("the file's ID block is for launch digest %x, but the file measures %x under %s", id.Digest, d, o.VMM)
		}
		out.add("snp.familyID", attest.Hex(id.FamilyID[:]).String(), true)
		out.add("snp.imageID", attest.Hex(id.ImageID[:]).String(), true)
		out.add("snp.guestSVN", strconv.FormatUint(uint64(id.GuestSVN), 10), true)
		ref.FamilyID, ref.ImageID, ref.MinGuestSVN = hexList(id.FamilyID[:]), hexList(id.ImageID[:]), &id.GuestSVN
	}
	if o.VMM == launch.QEMU {
		out.note("with further processors QEMU measures their states too, which the file does not hold: the digest is of one")
	}
	return nil
}
