package cli

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

func (a *app) auditExportCmd() *cobra.Command {
	var user userFlags
	c := &cobra.Command{Use: "export FILE", Short: "Write the whole log into a file", Example: "  ashlar audit export log.jsonl\n  ashlar audit export log.jsonl --cert alice.pem --key alice.key",
		Long: `Writes the attested checkpoint and every entry below it, one line of JSON each
(docs/wire.md), so that ashlar audit verify FILE, or a script, can check it
offline. With a user's certificate, the private parts go into the file too.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withUser(c.Context(), user, func(cl *client.Client) error { return a.auditExport(c.Context(), cl, args[0]) })
		}}
	user.register(c)
	return c
}

func (a *app) auditExport(ctx context.Context, cl *client.Client, name string) error {
	log := cl.Log(ctx)
	if name == "-" {
		return log.Export(ctx, a.p.Out, nil)
	}
	// The file is there whole or not at all.
	f, err := os.CreateTemp(filepath.Dir(name), ".export-*")
	if err != nil {
		return problem.Because(err, "CLI-003", "writing %s", name)
	}
	defer os.Remove(f.Name()) // gone by then if all went well
	err = log.Export(ctx, f, nil)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		if problem.CodeOf(err) != "" {
			return err
		}
		return problem.Because(err, "CLI-003", "writing %s", name)
	}
	if done, err := a.p.Structured(struct {
		File    string `json:"file"`
		Entries uint64 `json:"entries"`
		LogKey  string `json:"logKey"`
	}{name, log.Checkpoint().Size, log.Key()}); done {
		return err
	}
	a.p.Printf("Wrote %s: %d entries of %s\n", name, log.Checkpoint().Size, log.Checkpoint().Origin)
	a.p.Notef("next: ashlar audit verify %s\n", name)
	return nil
}

func (a *app) auditVerifyCmd() *cobra.Command {
	var user userFlags
	var trust logTrust
	var online bool
	c := &cobra.Command{Use: "verify [FILE]", Short: "Verify the whole log: the coordinator's, or an export offline",
		Example: "  ashlar audit verify\n  ashlar audit verify log.jsonl\n  ashlar audit verify log.jsonl --log-key ashlar-log/…\n  ashlar audit verify leaf.tlog-proof",
		Long: `Without FILE, reads every entry from the coordinator. FILE is an export or a
proof file and is judged offline: by the log key and the checkpoint of the trust
directory, or by --log-key.

Checked are the signature of the checkpoint, that the entries give its root, the
private parts that are shown, that revisions of the manifest follow one another,
and that it is the log of the remembered checkpoint. What is missing, altered,
out of place or put in is named with its place in the log. With --online, an
export is compared with the coordinator's log entry by entry besides, which
names the place also where the hashes were altered together with an entry.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.withUser(c.Context(), user, func(cl *client.Client) error { return a.verifyOnline(c.Context(), cl, trust) })
			}
			if raw, ok := proofFile(args[0]); ok {
				return a.proved(raw, trust)
			}
			if online {
				return a.withUser(c.Context(), user, func(cl *client.Client) error { return a.compareExport(c.Context(), cl, args[0]) })
			}
			return a.verifyExport(args[0], trust)
		}}
	user.register(c)
	trust.register(c)
	c.Flags().BoolVar(&online, "online", false, "compare an export with the coordinator's log")
	return c
}

// verifyOnline reads the coordinator's log as an export and judges that.
func (a *app) verifyOnline(ctx context.Context, cl *client.Client, trust logTrust) error {
	w, err := trust.witnesses.parse()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	log := cl.Log(ctx)
	out, in := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		err := log.Export(ctx, in, nil)
		_ = in.CloseWithError(err) // never fails (io.PipeWriter)
		failed <- err
	}()
	r, err := transparency.VerifyExport(out, transparency.ExportInput{Log: log.Key(), Witnesses: w.Keys})
	_ = out.Close() // never fails; ends the writer, if it still writes
	if served := <-failed; served != nil && !errors.Is(served, io.ErrClosedPipe) {
		return served
	}
	if err != nil {
		return err
	}
	by := logInput{key: log.Key(), whose: "the log key that the coordinator's evidence vouches for", witnessing: w}
	return a.exportReport(r, by)
}

func (a *app) verifyExport(name string, trust logTrust) error {
	by, err := a.logInput(trust)
	if err != nil {
		return err
	}
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return problem.Because(err, "CLI-003", "reading %s", name)
		}
		defer f.Close()
		in = f
	}
	r, err := transparency.VerifyExport(in, transparency.ExportInput{Log: by.key, Seen: by.seen, Witnesses: by.witnessing.Keys})
	if err != nil {
		return err
	}
	return a.exportReport(r, by)
}

func (a *app) exportReport(r transparency.ExportReport, by logInput) error {
	verdict := r.Err()
	if verdict == nil {
		verdict = by.enough(r.Cosignatures, a.p.Now())
	}
	if done, err := a.p.Structured(struct {
		transparency.ExportReport
		Size uint64 `json:"size"`
		Root string `json:"root"`
		OK   bool   `json:"ok"`
	}{r, r.Checkpoint.Size, hexOf(r.Checkpoint.Root), verdict == nil}); done {
		if err != nil {
			return err
		}
		return verdict
	}
	ok := a.p.Green(term.OK)
	a.p.Printf("checkpoint    %s over %d entries, signed by %s, %s\n", ok, r.Checkpoint.Size, r.Checkpoint.Origin, by.whose)
	if len(r.Findings) == 0 {
		a.p.Printf("entries       %s all %d give the root %s\n", ok, r.Entries, a.p.Digest(hexOf(r.Checkpoint.Root)))
		a.p.Printf("private parts %s %d are shown, and are those that the entries name\n", ok, r.Privates)
		a.p.Printf("revisions     %s %d of the manifest, each after the one before\n", ok, len(r.Revisions))
	}
	if r.Seen > 0 && len(r.Findings) == 0 {
		a.p.Printf("remembered    %s it is the log of the remembered checkpoint\n", ok)
	}
	a.witnessLines(r.Cosignatures)
	for _, f := range r.Findings {
		a.p.Printf("%s %s  %s\n", a.p.Red(term.Bad), a.p.Sentence(f.Text), f.Code)
	}
	if verdict == nil {
		a.p.Printf("Verified\n")
	}
	return verdict
}

// compareExport compares an export with the coordinator's log, entry by entry.
func (a *app) compareExport(ctx context.Context, cl *client.Client, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return problem.Because(err, "CLI-003", "reading %s", name)
	}
	defer f.Close()
	log := cl.Log(ctx)
	n, err := log.Compare(ctx, bufio.NewReader(f))
	if err != nil {
		return err
	}
	if done, err := a.p.Structured(struct {
		Entries uint64 `json:"entries"`
		OK      bool   `json:"ok"`
	}{n, true}); done {
		return err
	}
	a.p.Printf("%s all %d entries of %s are those of the coordinator's log\n", a.p.Green(term.OK), n, strings.TrimPrefix(name, "./"))
	return nil
}

func hexOf(h [32]byte) string { return hex.EncodeToString(h[:]) }
