package cli

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/inspect"
	"github.com/ashlar-mesh/ashlar/inspect/launch"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// imageFlags say what an image alone does not.
type imageFlags struct {
	tee, vmm, cpu, order        string
	kernel, initrd, commandLine string
	agent                       string
	vcpus                       []int
	features                    uint64
}

func (f *imageFlags) register(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.tee, "tee", "", "of an image for several TEEs, this one: snp or tdx")
	flags.StringVar(&f.vmm, "vmm", string(launch.QEMU), "what launches the guest: "+strings.Join(launch.VMMs, "|")+", for IGVM files qemu|hyperv")
	flags.IntSliceVar(&f.vcpus, "vcpus", []int{1}, "SEV-SNP: processors of the guest; several numbers give several digests")
	flags.StringVar(&f.cpu, "vcpu-type", "EPYC-v4", "SEV-SNP: type of the processors, as QEMU calls it, or FAMILY/MODEL/STEPPING")
	flags.Uint64Var(&f.features, "guest-features", 1, "SEV-SNP: SEV_FEATURES of the guest, such as 0x21 with debug swap")
	flags.StringVar(&f.order, "tdx-order", string(launch.PerPage), "TDX: how pages are measured: per-page, or per-section by kernels before Linux 6.16")
	flags.StringVar(&f.kernel, "kernel", "", "kernel that is booted directly, with the firmware")
	flags.StringVar(&f.initrd, "initrd", "", "initrd, with --kernel")
	flags.StringVar(&f.commandLine, "append", "", "command line of the kernel, with --kernel")
	flags.StringVar(&f.agent, "agent", "", "ashlar-marble's binary, to pin it for the software TEE (default: beside ashlar)")
}

// imageOptions checks the flags and adds the time of day and the agent.
func (a *app) imageOptions(f imageFlags) (inspect.Options, error) {
	o := inspect.Options{Now: a.p.Now(), TEE: attest.TEE(f.tee), Agent: f.agent, VMM: launch.VMM(f.vmm), VCPUs: f.vcpus, CPU: f.cpu,
		GuestFeatures: f.features, Order: launch.Order(f.order), Kernel: f.kernel, Initrd: f.initrd, CommandLine: f.commandLine}
	for _, flag := range []struct {
		name, value string
		values      []string
	}{
		{"tee", f.tee, []string{"", string(attest.SNP), string(attest.TDX)}},
		{"vmm", f.vmm, append(slices.Clone(launch.VMMs), string(launch.HyperV))},
		{"tdx-order", f.order, []string{string(launch.PerPage), string(launch.PerSection)}},
	} {
		if !slices.Contains(flag.values, flag.value) {
			return o, usage("--%s has no value %q", flag.name, flag.value).
				WithNext("%s", suggestion(flag.value, flag.values, "--"+flag.name+" ", "--"+flag.name+" "+strings.Trim(strings.Join(flag.values, "|"), "|")))
		}
	}
	if o.Agent == "" {
		if self, err := os.Executable(); err == nil {
			beside := filepath.Join(filepath.Dir(self), "ashlar-marble")
			if _, err := os.Stat(beside); err == nil {
				o.Agent = beside
			}
		}
	}
	return o, nil
}

type inspectFlags struct {
	image      imageFlags
	as, at     string
	root       string
	unverified bool
}

func (a *app) inspectCmd() *cobra.Command {
	var f inspectFlags
	c := &cobra.Command{Use: "inspect PATH|HOST:PORT", Short: "Tell what a binary, image, quote or certificate measures",
		Example: "  ashlar inspect ./web\n  ashlar inspect OVMF.fd --tee snp --kernel vmlinuz --vcpus 4 --as policy\n  ashlar inspect evidence/cart --as policy",
		Long: `PATH is recognised by its content:
  - a signed enclave of EGo, Open Enclave or the Intel SGX SDK, a SIGSTRUCT, or
    a Gramine manifest.sgx with the .sig beside it
  - guest firmware (OVMF), with --kernel, --initrd and --append what it boots
    directly: the launch digest of SEV-SNP and MRTD of TDX are calculated
  - an IGVM file: both are calculated
  - a quote, a report, a folder of evidence, an RA-TLS certificate, a statement
    or bundle of a coordinator
  - a launch endorsement of Google Cloud's firmware, with --root Google's root
  - a TCG event log, replayed into the registers of a TDX guest or of a TPM
  - any other file: what the software TEE measures
Of HOST:PORT it takes the evidence in the certificate, or what a coordinator
says of itself.

--as policy prints the entry for packages of a manifest. It refuses numbers that
nobody vouches for, such as those of a quote without endorsements, unless
--unverified says that you know better; it always refuses debug and simulated
evidence. RTMRs of TDX are not calculated: take them from the quote of a guest
that you trust.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.inspect(c.Context(), args[0], f) }}
	f.image.register(c)
	c.Flags().StringVar(&f.as, "as", "", "policy: print the reference values as manifest JSON")
	c.Flags().StringVar(&f.root, "root", "", "trust anchor, a certificate, instead of the vendor's")
	c.Flags().StringVar(&f.at, "at", "", "judge evidence as of this time, RFC 3339 or a date")
	c.Flags().BoolVar(&f.unverified, "unverified", false, "with --as policy: take numbers that nobody vouches for")
	return c
}

func (a *app) inspect(ctx context.Context, arg string, f inspectFlags) error {
	if f.as != "" && f.as != "policy" {
		return usage("--as has no value %q", f.as).WithNext("--as policy")
	}
	o, err := a.imageOptions(f.image)
	if err != nil {
		return err
	}
	if f.at != "" {
		if o.At, err = evidence.ParseTime(f.at); err != nil {
			return usage("--at %q is no time: want RFC 3339 such as 2026-01-15T00:00:00Z, or a date", f.at)
		}
	}
	if f.root != "" {
		raw, err := a.readFile(f.root)
		if err != nil {
			return err
		}
		if o.Root, err = certificateOf(raw); err != nil {
			return problem.Because(err, "CLI-003", "reading %s", f.root)
		}
	}
	found, err := a.find(ctx, arg, o)
	if err != nil {
		return err
	}
	if f.as == "policy" {
		return a.inspectPolicy(found, f.unverified)
	}
	if done, err := a.p.Structured(found); done {
		return err
	}
	a.findingReport(found)
	return nil
}

// certificateOf reads one certificate, PEM or DER.
func certificateOf(raw []byte) (*x509.Certificate, error) {
	if c, err := x509.ParseCertificate(raw); err == nil {
		return c, nil
	}
	return evidence.ParseRoot(raw)
}

// find inspects a path, or a server if there is no such path.
func (a *app) find(ctx context.Context, arg string, o inspect.Options) (inspect.Finding, error) {
	if _, err := os.Stat(arg); err != nil && strings.Contains(arg, ":") {
		return a.findServer(ctx, arg, o)
	}
	return inspect.Path(arg, o)
}

// findServer takes the evidence out of a server's certificate. Where there is
// none, it asks the server as one asks a coordinator.
func (a *app) findServer(ctx context.Context, addr string, o inspect.Options) (inspect.Finding, error) {
	certs, err := a.fetchCertificates(ctx, addr)
	if err != nil {
		return inspect.Finding{}, err
	}
	for _, c := range certs {
		found, err := inspect.Certificate(addr, c, o)
		if problem.CodeOf(err) != "CLI-044" {
			return found, err
		}
	}
	floor := &attest.DCAPPlatform{}
	anyone := attest.Policy{Package: evidence.AnyPackage(), Platform: attest.Platform{SGX: floor, TDX: floor, SNP: evidence.AnySNPPlatform()}}
	cl, err := client.Dial(ctx, addr, client.Options{Policy: anyone, Verifiers: hardware.Verifiers(), Timeout: a.timeout})
	if err == nil {
		defer cl.Close()
		return inspect.Verdict(addr, "coordinator", cl.Verified().Verdict)
	}
	v, ok := verdictOf(err)
	if !ok {
		return inspect.Finding{}, err
	}
	return inspect.Verdict(addr, "coordinator", v)
}

// inspectPolicy prints an entry for packages, and what is to be known of it on
// standard error.
func (a *app) inspectPolicy(found inspect.Finding, unverified bool) error {
	pkg, err := found.Reference(unverified)
	if err != nil {
		return err
	}
	if err := accepted(pkg); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(pkg, "", "  ")
	if err != nil {
		return err
	}
	a.findingNotes(found)
	if a.p.Format == term.YAML {
		_, err = a.p.Structured(pkg)
		return err
	}
	_, err = a.p.Out.Write(append(raw, '\n'))
	return err
}

// accepted holds reference values against the manifest's schema.
func accepted(pkg attest.Package) error {
	raw, err := json.Marshal(map[string]any{"version": 1, "trustDomain": "inspect.example",
		"packages": map[string]any{"inspected": pkg}, "marbles": map[string]any{"inspected": map[string]any{"package": "inspected"}}})
	if err != nil {
		return err
	}
	_, diags := manifest.Parse(raw)
	return diags.Err()
}

// basisWords say what the numbers rest on.
var basisWords = map[inspect.Basis]string{
	inspect.Calculated: "calculated from the file",
	inspect.Signed:     "signed: hardware starts nothing else under this signature",
	inspect.Verified:   "verified up to the root",
	inspect.Unverified: "NOT VERIFIED: nobody vouches for these numbers",
}

// findingReport writes a finding for a person: one table, marks on what becomes
// policy.
func (a *app) findingReport(found inspect.Finding) {
	words := basisWords[found.Basis]
	if found.Basis == inspect.Unverified {
		words = a.p.Red(words)
	}
	a.p.Printf("%s\n%s, %s\n", a.p.Bold(found.Source), found.What, words)
	rows := [][]string{{"field", "value", "policy"}}
	events := 0
	for _, x := range found.Fields {
		if x.Event() && a.p.Format != term.Wide {
			events++
			continue
		}
		mark := ""
		if x.Policy {
			mark = term.OK
		}
		rows = append(rows, []string{x.Name, a.p.Value(x.Value), mark})
	}
	a.p.Columns(rows)
	if events > 0 {
		a.p.Printf("%d events (-o wide)\n", events)
	}
	a.findingNotes(found)
	switch {
	case found.Unfit != "":
		a.p.Notef("%s no policy is made of it: %s  CLI-026\n", a.p.Red(term.Bad), found.Unfit)
	case found.Basis == inspect.Unverified:
		a.p.Notef("next: put its endorsements beside it, or ashlar inspect %s --as policy --unverified\n", found.Source)
	default:
		a.p.Notef("next: ashlar inspect %s --as policy\n", found.Source)
	}
}

func (a *app) findingNotes(found inspect.Finding) {
	for _, note := range found.Notes {
		a.p.Note(term.Warn + " " + a.p.Sentence(note) + "\n")
	}
}

// brief is a finding in a line: what it is and its reference values.
func (a *app) brief(found inspect.Finding) string {
	parts := []string{found.What}
	for _, x := range found.Fields {
		_, name, _ := strings.Cut(x.Name, ".")
		if x.Policy || name == "debug" {
			parts = append(parts, name+" "+a.p.Digest(x.Value))
		}
	}
	return strings.Join(parts, "  ")
}
