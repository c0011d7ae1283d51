package cli

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/ratls"
	"github.com/ashlar-mesh/ashlar/transparency"
)

func (a *app) certCmd() *cobra.Command {
	group := &cobra.Command{Use: "cert", Short: "Look at certificates and the evidence in them", Example: "  ashlar cert inspect shop.example:4433"}
	var logKey string
	inspect := &cobra.Command{
		Use: "inspect FILE|HOST:PORT", Short: "Decode a certificate and its RA-TLS evidence",
		Example: "  ashlar cert inspect cert.pem\n  ashlar cert inspect localhost:4433 -o json\n  ashlar cert inspect web.pem --log-key ashlar-log/3b7c…+1f2e3d4c+AY…",
		Long: `Shows what certificates say. Nothing is trusted: use verify to establish trust.
A marble's certificate names its entry in the log, with the log's promise that
it stands there. With --log-key that promise is verified.
Exit code 3 if a certificate carries evidence that is not bound to its key, or a
promise that the log has not given.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.certInspect(c.Context(), args[0], logKey) },
	}
	inspect.Flags().StringVar(&logKey, "log-key", "", "verify the promise with this log `key`, as ashlar verify shows it")
	group.AddCommand(inspect)
	return group
}

// certInfo is what inspect shows of one certificate.
type certInfo struct {
	Subject   string        `json:"subject"`
	Issuer    string        `json:"issuer"`
	Serial    string        `json:"serial"`
	NotBefore time.Time     `json:"notBefore"`
	NotAfter  time.Time     `json:"notAfter"`
	URIs      []string      `json:"uris"`
	DNSNames  []string      `json:"dnsNames"`
	IPs       []string      `json:"ips"`
	Key       string        `json:"key"`
	SHA256    attest.Hex    `json:"sha256"`
	CA        bool          `json:"ca"`
	Leaf      *leafInfo     `json:"leaf,omitempty"`
	Evidence  *evidenceInfo `json:"evidence,omitempty"`
	Problem   string        `json:"problem,omitempty"`
}

// leafInfo is what a marble's leaf says it was issued on.
type leafInfo struct {
	TEE      attest.TEE `json:"tee"`
	Evidence attest.Hex `json:"evidence"` // digests
	Verdict  attest.Hex `json:"verdict"`
	Manifest attest.Hex `json:"manifest"`
	Entry    uint64     `json:"entry"` // of the log
	Leaf     attest.Hex `json:"leafHash"`
	Promise  *promised  `json:"promise,omitempty"` // where the log key is given

	facts apiv1.LeafFacts
}

type evidenceInfo struct {
	Form  string        `json:"form"`
	TEE   attest.TEE    `json:"tee"`
	Size  int           `json:"size"`
	Bound bool          `json:"bound"`
	Steps []attest.Step `json:"steps"`
}

func (a *app) certInspect(ctx context.Context, arg, logKey string) error {
	if logKey != "" {
		if _, err := transparency.Verifier(logKey); err != nil {
			return err
		}
	}
	certs, err := a.certificates(ctx, arg)
	if err != nil {
		return err
	}
	infos := make([]certInfo, 0, len(certs))
	unbound := false
	for _, c := range certs {
		info := certFacts(c)
		info.Leaf.verify(logKey)
		unbound = unbound || info.Leaf.broken() || info.Problem != "" || info.Evidence != nil && !info.Evidence.Bound
		infos = append(infos, info)
	}
	if done, err := a.p.Structured(infos); done {
		if err != nil {
			return err
		}
	} else {
		for _, info := range infos {
			a.printCert(info)
		}
		a.p.Notef("shown, not trusted: ashlar verify establishes trust\n")
	}
	if unbound {
		return exitError(problem.Refused.ExitCode())
	}
	return nil
}

func (a *app) certificates(ctx context.Context, arg string) ([]*x509.Certificate, error) {
	if _, err := os.Stat(arg); err != nil && strings.Contains(arg, ":") {
		return a.fetchCertificates(ctx, arg)
	}
	raw, err := a.readFile(arg)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, problem.Because(err, "CLI-003", "reading certificate %d of %s", len(certs)+1, arg)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, problem.New("CLI-003", "%s holds no certificate, neither PEM nor DER", arg)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// fetchCertificates shows what a server presents, without trusting it.
func (a *app) fetchCertificates(ctx context.Context, addr string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{}, Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}} //nolint:gosec // shown, not trusted
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, problem.Because(err, "CLI-004", "connecting to %s", addr)
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates, nil
}

func certFacts(c *x509.Certificate) certInfo {
	sum := sha256.Sum256(c.Raw)
	info := certInfo{Subject: c.Subject.String(), Issuer: c.Issuer.String(), Serial: c.SerialNumber.Text(16), NotBefore: c.NotBefore,
		NotAfter: c.NotAfter, URIs: []string{}, DNSNames: append([]string{}, c.DNSNames...), IPs: []string{}, Key: c.PublicKeyAlgorithm.String(), SHA256: sum[:], CA: c.IsCA}
	for _, u := range c.URIs {
		info.URIs = append(info.URIs, u.String())
	}
	for _, ip := range c.IPAddresses {
		info.IPs = append(info.IPs, ip.String())
	}
	info.Leaf, info.Problem = leafFacts(c)
	found, err := ratls.Extract(c)
	switch {
	case err == nil:
		steps := found.CheckBinding(c)
		e := evidenceInfo{Form: string(found.Form), TEE: found.Evidence.TEE, Size: len(found.Evidence.Raw), Bound: true, Steps: steps}
		for _, s := range steps {
			e.Bound = e.Bound && s.OK
		}
		info.Evidence = &e
	case problem.CodeOf(err) != "ATT-080":
		info.Problem = err.Error()
	}
	return info
}

// leafFacts decodes the coordinator's own extension, if there is one.
func leafFacts(c *x509.Certificate) (*leafInfo, string) {
	for _, e := range c.Extensions {
		if !e.Id.Equal(apiv1.LeafOID) {
			continue
		}
		f, err := apiv1.ParseLeafFacts(e.Value)
		if err != nil {
			return nil, err.Error()
		}
		return &leafInfo{TEE: f.TEE, Evidence: f.Evidence[:], Verdict: f.Verdict[:], Manifest: f.Manifest[:], Entry: f.Log.Index, Leaf: f.Log.Leaf[:], facts: f}, ""
	}
	return nil, ""
}

func (a *app) printCert(c certInfo) {
	rows := [][]string{{"subject", c.Subject}, {"issuer", c.Issuer}, {"serial", c.Serial},
		{"valid", c.NotBefore.UTC().Format(time.RFC3339) + " to " + c.NotAfter.UTC().Format(time.RFC3339)},
		{"names", orDash(strings.Join(slices.Concat(c.URIs, c.DNSNames, c.IPs), " "))}, {"key", c.Key}, {"sha256", a.p.Value(c.SHA256.String())}}
	if l := c.Leaf; l != nil {
		rows = append(rows, []string{"issued on", fmt.Sprintf("%s evidence %s", l.TEE, a.p.Digest(l.Evidence.String()))},
			[]string{"", fmt.Sprintf("verdict %s", a.p.Digest(l.Verdict.String()))},
			[]string{"", "manifest " + a.p.Digest(l.Manifest.String())}, []string{"log", a.promiseLine(l)})
	}
	a.p.Columns(rows)
	if c.Problem != "" {
		a.p.Printf("%s %s\n", a.p.Red("✗"), c.Problem)
	}
	if c.Evidence != nil {
		a.p.Printf("evidence  %s, %s, %d bytes\n", c.Evidence.TEE, c.Evidence.Form, c.Evidence.Size)
		a.stepRows(c.Evidence.Steps)
	}
	a.p.Printf("\n")
}
