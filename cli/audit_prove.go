package cli

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

func (a *app) auditProveCmd() *cobra.Command {
	var user userFlags
	var trust logTrust
	var out string
	c := &cobra.Command{Use: "prove SEQ|DECISION|CERTIFICATE|PROOF", Short: "Prove that the log holds an entry",
		Example: "  ashlar audit prove 42 --out entry.tlog-proof\n  ashlar audit prove web/7f2c19ab\n  ashlar audit prove leaf.pem --out leaf.tlog-proof\n  ashlar audit prove leaf.tlog-proof",
		Long: `Fetches an entry by its place, by the id of a decision, or by a marble's
certificate, and the proof that the attested checkpoint covers it. Of a
certificate it checks that the log promised the entry and kept the promise, and
that the entry is of this certificate.

--out writes all of it into one file (c2sp.org/tlog-proof), which anybody can
check offline: given such a file, prove does, by the log key of the trust
directory or --log-key.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if raw, ok := proofFile(args[0]); ok {
				if out != "" {
					return usage("--out is for a proof that is made; %s is one", args[0])
				}
				return a.proved(raw, trust)
			}
			return a.withUser(c.Context(), user, func(cl *client.Client) error { return a.prove(c.Context(), cl, args[0], out) })
		}}
	user.register(c)
	trust.register(c)
	c.Flags().StringVar(&out, "out", "", "write the proof into this file")
	return c
}

// proofFile reads a file that is meant as a proof.
func proofFile(name string) ([]byte, bool) {
	f, err := os.Open(name)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	raw, err := readAll(f, name, transparency.MaxProofFile)
	return raw, err == nil && transparency.IsProofFile(raw)
}

func (a *app) prove(ctx context.Context, cl *client.Client, what, out string) error {
	log := cl.Log(ctx)
	index, leaf, err := a.wantedEntry(ctx, cl, log, what)
	if err != nil {
		return err
	}
	p, e, err := log.Prove(ctx, index)
	if err != nil {
		return err
	}
	if leaf != nil {
		if err := keptPromise(leaf, e); err != nil {
			return err
		}
		p.Certificate = leaf.Raw
	} else if strings.Contains(what, "/") && e.Decision != what {
		return problem.New("LOG-056", "entry %d is of decision %q, the coordinator said %q", index, e.Decision, what)
	}
	shown, err := p.Verify(log.Key(), nil)
	if err != nil {
		return err
	}
	if out != "" {
		raw, err := p.Encode()
		if err != nil {
			return err
		}
		if err := durable.WriteFile(out, raw, 0o644); err != nil {
			return problem.Because(err, "CLI-003", "writing %s", out)
		}
	}
	return a.proofReport(p, shown, "attested by the coordinator", out)
}

// wantedEntry finds the place of what is to be proved, and the certificate if it
// is one.
func (a *app) wantedEntry(ctx context.Context, cl *client.Client, log *client.Log, what string) (uint64, *x509.Certificate, error) {
	if index, err := strconv.ParseUint(what, 10, 63); err == nil {
		return index, nil, nil
	}
	if _, err := os.Stat(what); err != nil {
		if !strings.Contains(what, "/") {
			return 0, nil, usage("%q is no entry: want its place, a decision such as web/7f2c19ab, or a file", what)
		}
		d, err := cl.Decision(ctx, what)
		return d.Seq, nil, err
	}
	certs, err := a.certificates(ctx, what)
	if err != nil {
		return 0, nil, err
	}
	info, fault := leafFacts(certs[0])
	if info == nil {
		return 0, nil, problem.New("CLI-078", "%s: %s", what, orDash(fault))
	}
	if err := transparency.VerifyPromise(info.facts.Log, log.Key()); err != nil {
		return 0, nil, err
	}
	return info.facts.Log.Index, certs[0], nil
}

// keptPromise checks that the entry at the place that a leaf names is the one
// that the log promised, and of that leaf. LOG-071 is an entry of another
// certificate, LOG-072 a promise that was not kept.
func keptPromise(cert *x509.Certificate, e client.Logged) error {
	info, fault := leafFacts(cert)
	if info == nil {
		return problem.New("LOG-071", "the certificate says nothing of the log %s", fault)
	}
	f := info.facts
	if leaf := transparency.LeafHash(e.Raw); leaf != f.Log.Leaf || e.Seq != f.Log.Index {
		return problem.New("LOG-072", "promised was an entry with the hash %s at %d, and there is %s", attest.Hex(f.Log.Leaf[:8]), f.Log.Index, attest.Hex(leaf[:8]))
	}
	serial := cert.SerialNumber.Text(16)
	switch {
	case e.Details["serial"] != serial:
		return problem.New("LOG-071", "the entry is of serial number %s, the certificate has %s", orDash(e.Details["serial"]), serial)
	case hex.EncodeToString(f.Evidence[:]) != e.Evidence.String():
		return problem.New("LOG-071", "the entry is of evidence %s, the certificate of %s", e.Evidence, hex.EncodeToString(f.Evidence[:]))
	}
	return nil
}

// proved judges a proof file offline.
func (a *app) proved(raw []byte, trust logTrust) error {
	p, err := transparency.ParseProofFile(raw)
	if err != nil {
		return err
	}
	by, err := a.logInput(trust)
	if err != nil {
		return err
	}
	shown, err := p.Verify(by.key, by.witnessing.Keys)
	if err != nil {
		return err
	}
	if p.Certificate != nil {
		cert, err := x509.ParseCertificate(p.Certificate)
		if err != nil {
			return problem.Because(err, "LOG-071", "reading the certificate of the proof")
		}
		info, _ := leafFacts(cert)
		if info == nil {
			return problem.New("LOG-071", "the certificate says nothing of the log")
		}
		if err := transparency.VerifyPromise(info.facts.Log, p.Log); err != nil {
			return err
		}
		if err := keptPromise(cert, client.Logged{Entry: shown.Entry, Raw: p.Entry}); err != nil {
			return err
		}
	}
	if err := by.compare(shown.Checkpoint); err != nil {
		return err
	}
	if err := a.proofReport(p, shown, by.whose, ""); err != nil {
		return err
	}
	return by.enough(shown.Cosignatures, a.p.Now())
}

func (a *app) proofReport(p transparency.ProofFile, shown transparency.Proved, whose, out string) error {
	e := client.Logged{Entry: shown.Entry, Private: shown.Private, Raw: p.Entry, RawPrivate: p.Private}
	if done, err := a.p.Structured(struct {
		Entry        any                        `json:"entry"`
		Index        uint64                     `json:"index"`
		Leaf         attest.Hex                 `json:"leafHash"`
		Proof        transparency.Proof         `json:"proof"`
		Checkpoint   string                     `json:"checkpoint"`
		LogKey       string                     `json:"logKey"`
		Certificate  attest.Hex                 `json:"certificate,omitempty"`
		Cosignatures []transparency.Cosignature `json:"cosignatures,omitempty"`
	}{entryDocument(e), p.Index, hashOf(p.Entry), p.Proof, string(p.Note), p.Log, p.Certificate, shown.Cosignatures}); done {
		return err
	}
	ok := a.p.Green(term.OK)
	a.p.Printf("entry         %d, %s, %s\n", e.Seq, e.Kind, e.Time.UTC().Format(time.RFC3339))
	a.p.Printf("  about       %s%s\n", orDash(a.p.Value(e.Subject)), by(e.Actor))
	if text := entryText(e); text != "" {
		a.p.Printf("  says        %s\n", a.p.Sentence(text))
	}
	if p.Certificate != nil {
		a.p.Printf("certificate   %s is of this entry; the log promised it, and kept the promise\n", ok)
	}
	a.p.Printf("proof         %s %d hashes lead to the root over %d entries\n", ok, len(p.Proof), shown.Checkpoint.Size)
	a.p.Printf("checkpoint    %s signed by %s, %s\n", ok, shown.Checkpoint.Origin, whose)
	a.witnessLines(shown.Cosignatures)
	if out != "" {
		a.p.Printf("Wrote %s, to be checked anywhere: ashlar audit prove %s\n", out, out)
	}
	return nil
}

func by(actor string) string {
	if actor == "" {
		return ""
	}
	return ", by " + actor
}

func hashOf(entry []byte) attest.Hex {
	h := transparency.LeafHash(entry)
	return h[:]
}
