package integration

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/internal/transcript"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// TestLog reads, proves, exports and verifies the log of a running coordinator at
// the command line, and damages what it gave.
func TestLog(t *testing.T) {
	d := up(t, nil)
	o := newOperator(t)
	o.Must(0, "verify", d.Client, "--policy", d.PolicyFile())
	t.Run("list", func(t *testing.T) { o.lists(t, d) })
	t.Run("prove", func(t *testing.T) { o.proves(t, d) })
	t.Run("export", func(t *testing.T) { o.exports(t, d) })
	t.Run("tail", func(t *testing.T) { o.tails(t, d) })
}

// as adds the user to a command line.
func (d *deployment) as(args ...string) []string {
	return append(args, "--cert", d.CertFile(), "--key", d.KeyFile())
}

func (o *operator) lists(t *testing.T, d *deployment) {
	o.T = t
	type entries struct {
		Size    uint64 `json:"size"`
		Entries []struct {
			Entry   transparency.Entry `json:"entry"`
			Private json.RawMessage    `json:"private"`
		} `json:"entries"`
	}
	set := drive.Document[entries](o.Shell, "audit", "list", "--kind", "manifestSet")
	if len(set.Entries) != 1 || set.Entries[0].Entry.Kind != "manifestSet" || set.Entries[0].Private != nil {
		t.Errorf("got %+v, want the one manifest that was set", set)
	}
	mine := drive.Document[entries](o.Shell, d.as("audit", "list", "--kind", "activationAccepted", "--subject", "web")...)
	if len(mine.Entries) != 1 || mine.Entries[0].Private == nil {
		t.Errorf("got %+v, want web's activation with its private part", mine)
	}
	if first := drive.Document[entries](o.Shell, "audit", "list", "--from", "0", "--limit", "2"); len(first.Entries) != 2 || first.Entries[1].Entry.Seq != 1 {
		t.Errorf("got %+v, want entries 0 and 1", first)
	}
	if future := drive.Document[entries](o.Shell, "audit", "list", "--since", "2100-01-01"); len(future.Entries) != 0 || future.Size == 0 {
		t.Errorf("got %+v, want nothing of the year 2100", future)
	}
	drive.Wants(t, o.Must(0, "audit", "list").Stdout, "manifestSet", "activationAccepted")
	o.Must(2, "audit", "list", "--since", "yesterday")
}

func (o *operator) proves(t *testing.T, d *deployment) {
	o.T = t
	shown := o.Must(0, "audit", "prove", "2", "--out", "entry.tlog-proof")
	drive.Wants(t, shown.Stdout, "manifestSet", "lead to the root over", "attested by the coordinator")
	drive.Wants(t, o.Must(0, "audit", "prove", "entry.tlog-proof").Stdout, "manifestSet", "the log key of .ashlar")
	o.Must(0, "audit", "verify", "entry.tlog-proof")
	drive.Wants(t, o.Must(3, "audit", "prove", "entry.tlog-proof", "--trust", "nowhere").Stderr, "CLI-076")
	raw, err := os.ReadFile(filepath.Join(o.Dir, "entry.tlog-proof"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := transparency.ParseProofFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	p.Entry = bytes.Replace(p.Entry, []byte(`"first"`), []byte(`"alice"`), 1)
	if raw, err = p.Encode(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "bad.tlog-proof"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	drive.Wants(t, o.Must(3, "audit", "prove", "bad.tlog-proof").Stderr, "LOG-004")
	o.Must(2, "audit", "prove", "100000")

	// Of a decision, and of the certificate that was issued on it.
	c := d.client()
	decisions, err := c.Decisions(t.Context(), "web", 1)
	if err != nil || len(decisions) != 1 {
		t.Fatalf("got %+v, %v", decisions, err)
	}
	drive.Wants(t, o.Must(0, "audit", "prove", decisions[0].ID).Stdout, "activationAccepted", decisions[0].ID)
	o.provesLeaf(t, d)
}

// provesLeaf proves that the log kept the promise in a marble's certificate.
func (o *operator) provesLeaf(t *testing.T, d *deployment) {
	c, err := probe.Dial(t.Context(), dev.DefaultMesh, probe.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	nonce, err := c.Challenge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Activate(t.Context(), probe.Attempt{Issuer: d.issuer(probeDigest), Nonce: nonce,
		Instance: &marblepb.Instance{Marble: "probe", Id: "10000000-0000-4000-8000-000000000001", Address: "10.77.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	der := got.Response.GetLease().GetCertificates()[0]
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(o.Dir, "leaf.pem"), leaf, 0o600); err != nil {
		t.Fatal(err)
	}
	drive.Wants(t, o.Must(0, "audit", "prove", "leaf.pem", "--out", "leaf.tlog-proof").Stdout, "kept the promise", "probe")
	drive.Wants(t, o.Must(0, "audit", "prove", "leaf.tlog-proof").Stdout, "kept the promise")
	raw, err := os.ReadFile(filepath.Join(o.Dir, "leaf.tlog-proof"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := transparency.ParseProofFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	// The same certificate beside the entry of another decision.
	other, err := os.ReadFile(filepath.Join(o.Dir, "entry.tlog-proof"))
	if err != nil {
		t.Fatal(err)
	}
	q, err := transparency.ParseProofFile(other)
	if err != nil {
		t.Fatal(err)
	}
	q.Certificate = p.Certificate
	if raw, err = q.Encode(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "broken.tlog-proof"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	drive.Wants(t, o.Must(3, "audit", "prove", "broken.tlog-proof").Stderr, "LOG-072")
}

func (o *operator) exports(t *testing.T, d *deployment) {
	o.T = t
	drive.Wants(t, o.Must(0, "audit", "verify").Stdout, "give the root", "Verified")
	drive.Wants(t, o.Must(0, d.as("audit", "export", "log.jsonl")...).Stdout, "Wrote log.jsonl")
	drive.Wants(t, o.Must(0, "audit", "verify", "log.jsonl").Stdout, "the log key of .ashlar", "the log of the remembered checkpoint", "Verified")
	drive.Wants(t, o.Must(0, "audit", "verify", "log.jsonl", "--online").Stdout, "are those of the coordinator's log")
	drive.Wants(t, o.Must(3, "audit", "verify", "log.jsonl", "--trust", "nowhere").Stderr, "CLI-076")
	raw, err := os.ReadFile(filepath.Join(o.Dir, "log.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(raw), "\n")
	swapped := append([]string{}, lines...)
	swapped[3], swapped[4] = swapped[4], swapped[3]
	for name, c := range map[string]struct{ file, code, text string }{
		"dropped":   {strings.Join(append(lines[:4:4], lines[5:]...), ""), "LOG-061", "entry 3 is missing"},
		"altered":   {strings.Replace(string(raw), `\"first\"`, `\"alice\"`, 1), "LOG-062", "entry 2 was altered"},
		"reordered": {strings.Join(swapped, ""), "LOG-063", "entry 2 stands after entry 3"},
		"inserted":  {strings.Join(append(append(lines[:4:4], lines[3]), lines[4:]...), ""), "LOG-064", "entry 2"},
		"cut":       {string(raw[:len(raw)/2]), "LOG-060", ""},
	} {
		file := name + ".jsonl"
		if err := os.WriteFile(filepath.Join(o.Dir, file), []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		code := 3
		if c.code == "LOG-060" {
			code = 6
		}
		got := o.Must(code, "audit", "verify", file)
		drive.Wants(t, got.Stdout+got.Stderr, c.code, c.text)
	}
	o.Must(3, "audit", "verify", "altered.jsonl", "--online")
}

// tails follows the log while a manifest is set, as lines of JSON, until it is
// interrupted.
func (o *operator) tails(t *testing.T, d *deployment) {
	o.T = t
	var out transcript.Buffer
	cmd := o.Command(t.Context(), "audit", "tail", "-n", "1", "--every", "100ms", "--kind", "manifestSet", "-o", "json")
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	drive.Eventually(t, patience, func() string {
		if strings.Count(out.String(), "\n") < 1 {
			return "the tail has not begun"
		}
		return ""
	})
	file := o.edit("next.json", gatewayRoutes("GET /"))
	o.Must(0, d.as("manifest", "set", file, "--yes")...)
	drive.Eventually(t, patience, func() string {
		if strings.Count(out.String(), "\n") < 2 {
			return "the new manifest is not in the tail"
		}
		return ""
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: got %v, want exit 0", err)
	}
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var e struct {
			Entry transparency.Entry `json:"entry"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Entry.Kind != "manifestSet" {
			t.Errorf("got %q, %v, want an entry of a manifest", line, err)
		}
	}
	drive.Wants(t, o.Must(0, "verify").Stdout, "begins with the", "revision 2")
}

// TestRollbackAtTheCommandLine copies the state, lets the coordinator go on, and
// puts the copy back: every command refuses it.
func TestRollbackAtTheCommandLine(t *testing.T) {
	d := bare(t, nil)
	o := newOperator(t)
	if _, err := d.SetManifest(t.Context()); err != nil {
		t.Fatal(err)
	}
	restart := func(change func()) {
		t.Helper()
		d.Coordinator().Stop()
		change()
		if err := d.StartCoordinator(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	old := filepath.Join(t.TempDir(), "old")
	restart(func() {
		if err := os.CopyFS(old, os.DirFS(d.StateDir())); err != nil {
			t.Fatal(err)
		}
	})
	o.Must(0, "verify", d.Client, "--policy", d.PolicyFile())
	o.Must(0, d.as("manifest", "set", o.edit("next.json", gatewayRoutes("GET /")), "--yes")...)
	o.Must(0, "verify")
	before, err := os.ReadFile(filepath.Join(o.Dir, ".ashlar", "trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	restart(func() {
		if err := os.RemoveAll(d.StateDir()); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(d.StateDir(), os.DirFS(old)); err != nil {
			t.Fatal(err)
		}
	})
	for _, line := range [][]string{{"verify"}, {"status"}, {"manifest", "get"}, {"audit", "list"}, d.as("manifest", "set", "next.json", "--yes")} {
		got := o.Must(3, line...)
		if !strings.Contains(got.Stderr, "LOG-050") && !strings.Contains(got.Stderr, "LOG-051") {
			t.Errorf("ashlar %s: got %q, want LOG-050 or LOG-051", strings.Join(line, " "), got.Stderr)
		}
	}
	if after, _ := os.ReadFile(filepath.Join(o.Dir, ".ashlar", "trust.json")); !bytes.Equal(before, after) {
		t.Error("a refused command changed what is remembered")
	}
}
