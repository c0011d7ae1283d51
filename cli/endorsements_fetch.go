package cli

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/ratls"
)

// maxStatement bounds a coordinator's statement, in bytes.
const maxStatement = 2 << 20

type fetchFlags struct {
	pccs, kds []string
	from, out string
	root      string
}

func (a *app) endorsementsFetchCmd() *cobra.Command {
	var f fetchFlags
	c := &cobra.Command{Use: "fetch DIR|HOST:PORT …", Short: "Get the endorsements of machines from the vendors, or from a cache",
		Example: "  ashlar endorsements fetch evidence/ --pccs https://pccs.example:8081\n" +
			"  ashlar endorsements fetch web.example:443 --kds https://kdsintf.amd.com",
		Long: `DIR is a folder of evidence; HOST:PORT a server with evidence in its
certificate, or a coordinator. Only what the vendor signed and what is of that
machine is written: to a bundle, or where --out ends with a slash to folders,
as ashlar-coordinator --endorsements reads them. A bundle that is there already
is completed. The address of a PCCS may end with ?update=early or
?tcbEvaluationDataNumber=N. A chip's certificate for a TCB never changes, so
keep it: AMD's service gives about one in ten seconds.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.fetchEndorsements(c.Context(), args, f) }}
	c.Flags().StringSliceVar(&f.pccs, "pccs", nil, "Intel's service or a cache of it, such as https://api.trustedservices.intel.com (repeatable)")
	c.Flags().StringSliceVar(&f.kds, "kds", nil, "AMD's key service, such as https://kdsintf.amd.com (repeatable)")
	c.Flags().StringVar(&f.from, "from", "", "folder of endorsements to look in first")
	c.Flags().StringVar(&f.out, "out", "endorsements.json", "bundle, or folder with a slash at its end; - for standard output")
	c.Flags().StringVar(&f.root, "root", "", "root of a simulation, a PEM file; its evidence is taken too")
	return c
}

func (a *app) fetchEndorsements(ctx context.Context, args []string, f fetchFlags) error {
	store, err := a.fetchStore(f)
	if err != nil {
		return err
	}
	if !folderOrFile(f.out) && f.out != "-" {
		if _, err := os.Stat(f.out); err == nil {
			old, err := a.readEndorsements(f.out)
			if err != nil {
				return err
			}
			store.Import(old)
		}
	}
	failed := 0
	for _, arg := range args {
		e, err := a.evidenceOf(ctx, arg)
		if err != nil {
			return err
		}
		en, err := store.Endorse(ctx, e)
		switch {
		case err != nil:
			a.p.Notef("✗ %s: %s\n", arg, problem.From(err).Detail)
			failed++
		case len(en.Items()) == 0:
			a.p.Notef("✗ %s: the evidence is not genuine, or names no machine\n", arg)
			failed++
		}
	}
	b := store.Export()
	for _, s := range b.Sets() {
		a.p.Notef("✓ %s\n", a.needLine(s.Need, s.Endorsements))
	}
	if len(b.Sets()) > 0 {
		if err := a.writeSets(f.out, b); err != nil {
			return err
		}
	}
	if failed > 0 {
		return problem.New("CLI-030", "%d of %d", failed, len(args))
	}
	return nil
}

func (a *app) writeSets(out string, b *endorse.Bundle) error {
	if !folderOrFile(out) {
		return a.writeEndorsements(out, b)
	}
	for _, s := range b.Sets() {
		if err := fetch.WriteFolder(out, s); err != nil {
			return problem.Because(err, "CLI-003", "writing below %s", out)
		}
	}
	return nil
}

func (a *app) fetchStore(f fetchFlags) (*fetch.Store, error) {
	config := fetch.Config{Verifiers: hardware.Verifiers()}
	if f.root != "" {
		raw, err := a.readFile(f.root)
		if err != nil {
			return nil, err
		}
		if err := addSimulation(config.Verifiers, raw); err != nil {
			return nil, err
		}
	}
	if f.from != "" {
		config.Sources = append(config.Sources, fetch.Folder{Root: f.from})
	}
	for _, address := range f.pccs {
		source, err := fetch.NewPCCS(fetch.ClientConfig{URL: address})
		if err != nil {
			return nil, usage("--pccs: %v", err)
		}
		config.Sources = append(config.Sources, source)
	}
	for _, address := range f.kds {
		source, err := fetch.NewKDS(fetch.ClientConfig{URL: address})
		if err != nil {
			return nil, usage("--kds: %v", err)
		}
		config.Sources = append(config.Sources, source)
	}
	if len(config.Sources) == 0 {
		return nil, usage("no source is named").WithNext("--pccs URL for SGX and TDX, --kds URL for SEV-SNP, or --from DIR")
	}
	return fetch.New(config)
}

// evidenceOf reads evidence from a folder, or asks a server for it: for its
// certificate, and where that has none, as one asks a coordinator. Nothing is
// trusted yet.
func (a *app) evidenceOf(ctx context.Context, arg string) (attest.Evidence, error) {
	if _, err := os.Stat(arg); err != nil && strings.Contains(arg, ":") {
		return a.evidenceOfServer(ctx, arg)
	}
	s, err := evidence.Load(os.DirFS(arg))
	if err != nil {
		return attest.Evidence{}, err
	}
	if s.Evidence.Raw == nil {
		certs, err := a.certificates(ctx, arg+"/"+evidence.CertificateFile)
		if err != nil {
			return attest.Evidence{}, err
		}
		return evidenceIn(certs[0])
	}
	return s.Evidence, nil
}

func evidenceIn(c *x509.Certificate) (attest.Evidence, error) {
	found, err := ratls.Extract(c)
	return found.Evidence, err
}

func (a *app) evidenceOfServer(ctx context.Context, addr string) (attest.Evidence, error) {
	certs, err := a.fetchCertificates(ctx, addr)
	if err != nil {
		return attest.Evidence{}, err
	}
	if e, err := evidenceIn(certs[0]); err == nil {
		return e, nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	var nonce [apiv1.NonceSize]byte
	rand.Read(nonce[:]) // never fails (crypto/rand)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/v1/attestation?nonce="+hex.EncodeToString(nonce[:]), nil)
	if err != nil {
		return attest.Evidence{}, usage("%s is no HOST:PORT", addr)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}} //nolint:gosec // the evidence proves itself
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return attest.Evidence{}, problem.Because(err, "CLI-004", "asking %s for a statement", addr)
	}
	defer resp.Body.Close()
	var s apiv1.Statement
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatement)).Decode(&s); err != nil || len(s.Evidence.Raw) == 0 {
		return attest.Evidence{}, problem.New("CLI-003", "%s has no evidence in its certificate, and is no coordinator", addr)
	}
	return s.Evidence, nil
}
