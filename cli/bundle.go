package cli

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// bundleName is the bundle's file in a directory that --out names.
const bundleName = "bundle.json"

// isBundle says whether what verify was given is a file, and no address.
func isBundle(arg string) bool {
	info, err := os.Stat(arg)
	return arg == "-" || strings.HasSuffix(arg, ".json") || err == nil && info.Mode().IsRegular()
}

// writeBundle writes what the newest verification saw, if a file is named.
func (a *app) writeBundle(ctx context.Context, cl *client.Client, name string) error {
	if name == "" {
		return nil
	}
	b, err := cl.Portable(ctx)
	if err != nil {
		return err
	}
	raw, err := b.Encode()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(name, raw, 0o644); err != nil {
		return problem.Because(err, "CLI-003", "writing %s", name)
	}
	if b.Acceptance == nil && b.Statement.Revision > 0 {
		a.p.Notef("the log is too long by now to show in the bundle when it accepted the manifest\n")
	}
	return nil
}

// verifyBundle judges a bundle without a network. The policy is the reader's:
// --policy, or what an earlier verify kept with the deployment's root.
func (a *app) verifyBundle(name string, f verifyFlags) error {
	if f.bundle != "" || f.out != "" || f.dryRun {
		return problem.New("CLI-029", "--bundle, --out and --dry-run are for verifying a coordinator; a bundle is only read")
	}
	raw, err := a.readUpTo(name, client.MaxBundle)
	if err != nil {
		return err
	}
	b, err := client.ParseBundle(raw)
	if err != nil {
		return err
	}
	in, held, err := a.bundleInput(f)
	if err != nil {
		return err
	}
	a.p.Simulation = a.p.Simulation || b.Statement.Evidence.TEE.Simulated()
	v, err := client.VerifyBundle(b, in)
	verdict := v.Verdict
	if err != nil {
		var ok bool
		if verdict, ok = verdictOf(err); !ok {
			return err
		}
	}
	if !held {
		err = problem.New("CLI-027", "this is what the bundle shows; nobody has said what it should be")
	}
	if done, werr := a.structuredBundle(b, v, verdict); done {
		if werr != nil {
			return werr
		}
		return err
	}
	a.bundleReport(b, in, verdict)
	if err != nil {
		return bundleRefusal(err, verdict)
	}
	if err := a.lifted(v, f); err != nil {
		return err
	}
	a.bundleVerified(v, f)
	return nil
}

// challenge reads --nonce; nil without it.
func (f verifyFlags) challenge() ([]byte, error) {
	if f.nonce == "" {
		return nil, nil
	}
	nonce, err := hex.DecodeString(f.nonce)
	if err != nil || len(nonce) != apiv1.NonceSize {
		return nil, usage("--nonce %q is no nonce: want %d hex digits", f.nonce, 2*apiv1.NonceSize)
	}
	return nonce, nil
}

// bundleInput collects what the reader judges by, and whether that includes a
// policy.
func (a *app) bundleInput(f verifyFlags) (in client.BundleInput, held bool, err error) {
	in = client.BundleInput{Now: a.p.Now(), Verifiers: hardware.Verifiers()}
	if f.at != "" {
		if in.At, err = evidence.ParseTime(f.at); err != nil {
			return in, false, usage("--at %q is no time: want RFC 3339 such as 2026-01-15T00:00:00Z, or a date", f.at)
		}
	}
	if in.Nonce, err = f.challenge(); err != nil {
		return in, false, err
	}
	if in.Manifest, err = a.wantedManifest(f.manifest); err != nil {
		return in, false, err
	}
	if in.Witnessing, err = f.witnesses.parse(); err != nil {
		return in, false, err
	}
	if f.policy == "" {
		trust, err := client.LoadTrust(a.trust)
		if errors.Is(err, fs.ErrNotExist) {
			return in, false, nil
		}
		if err != nil {
			return in, false, err
		}
		in.Remembered = &trust.Remembered
		f.policy = filepath.Join(a.trust, policyName)
	}
	by, err := a.loadPolicy(f.policy)
	in.Policy, in.Verifiers = by.policy, by.verifiers
	if len(f.witnesses.keys) == 0 {
		in.Witnessing = by.log
	}
	return in, err == nil, err
}

func (a *app) structuredBundle(b client.Bundle, v client.Verified, verdict attest.Verdict) (bool, error) {
	s := b.Statement
	return a.p.Structured(struct {
		Time       time.Time        `json:"time"`
		Address    string           `json:"address,omitempty"`
		Verdict    attest.Verdict   `json:"verdict"`
		Manifest   attest.Hex       `json:"manifest,omitempty"`
		Revision   int              `json:"revision"`
		Accepted   *client.Accepted `json:"accepted,omitempty"`
		Simulation bool             `json:"simulation"`
	}{b.Time, b.Address, verdict, s.Manifest, s.Revision, v.Accepted, s.Evidence.TEE.Simulated()})
}

// bundleReport says what a bundle is and what its evidence shows.
func (a *app) bundleReport(b client.Bundle, in client.BundleInput, v attest.Verdict) {
	p, at, whose := a.p, in.At, "over a nonce of its maker's"
	if len(in.Nonce) > 0 {
		whose = "held to your nonce"
	}
	p.Printf("bundle        made %s of %s\n", b.Time.UTC().Format(time.RFC3339), orDash(b.Address))
	if at.IsZero() {
		p.Printf("judged as of  that time, which is its maker's word (--at TIME)\n")
	} else {
		p.Printf("judged as of  %s\n", at.UTC().Format(time.RFC3339))
	}
	p.Printf("evidence      %s, %d bytes, %s\n", b.Statement.Evidence.TEE, len(b.Statement.Evidence.Raw), whose)
	if rows := claimRows(v.Claims); len(rows) > 0 {
		p.Columns(a.shortened(rows))
	}
	a.stepTable(v.Steps)
	a.findings(v)
}

func (a *app) shortened(rows [][]string) [][]string {
	for i := range rows {
		rows[i][1] = a.p.Value(rows[i][1])
	}
	return rows
}

// claimRows lists what evidence says of software and machine: name and value.
func claimRows(c attest.Claims) [][]string {
	raw, err := json.Marshal(c)
	var tree map[string]any
	if err != nil || json.Unmarshal(raw, &tree) != nil {
		return nil
	}
	parts := make(map[string]any)
	for _, part := range []string{"sgx", "tdx", "snp", "tpm", "gpu", "registers"} {
		parts[part] = tree[part]
	}
	return leaves("", parts)
}

// leaves lists the values of a JSON document that say something, each with its
// path, sorted. Of a list, each value has a row.
func leaves(path string, v any) [][]string {
	var rows [][]string
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			rows = append(rows, leaves(strings.TrimPrefix(path+"."+key, "."), v[key])...)
		}
	case []any:
		for _, one := range v {
			rows = append(rows, leaves(path, one)...)
		}
	case string:
		if strings.Trim(v, "0") != "" {
			rows = append(rows, []string{"  " + path, v})
		}
	case float64:
		rows = append(rows, []string{"  " + path, fmt.Sprint(v)})
	}
	return rows
}

// bundleRefusal sums up a refusal whose table was shown.
func bundleRefusal(err error, v attest.Verdict) error {
	e := problem.From(err)
	failed := v.Failed()
	if e.Code == "CLI-027" || len(failed) == 0 {
		return err
	}
	return &problem.Error{Code: e.Code, Detail: fmt.Sprintf("the bundle is refused: %s, %d of %d checks fail", failed[0].Field, len(failed), len(v.Steps)),
		Next: "ashlar explain " + failed[0].Code}
}

func (a *app) bundleVerified(v client.Verified, f verifyFlags) {
	p, ok, s := a.p, a.p.Green(term.OK), v.Statement
	switch {
	case len(s.Manifest) == 0:
		p.Printf("manifest      %s none was set\n", p.Yellow(term.Warn))
	case f.manifest != "":
		p.Printf("manifest      %s %s is %s, byte for byte\n", ok, p.Digest(s.Manifest.String()), f.manifest)
	default:
		p.Printf("manifest      %s %s, revision %d, as in the bundle; not compared (--manifest FILE)\n", ok, p.Digest(s.Manifest.String()), s.Revision)
	}
	switch {
	case v.Accepted == nil && len(s.Manifest) > 0:
		p.Printf("log           %s not shown when it accepted the manifest\n", p.Yellow(term.Warn))
	case v.Accepted != nil && v.Accepted.Open:
		p.Printf("log           %s record %d of %d, %s: ANYBODY could have set the manifest\n", p.Yellow(term.Warn), v.Accepted.Seq, v.Checkpoint.Size,
			v.Accepted.Time.UTC().Format(time.RFC3339))
	case v.Accepted != nil:
		p.Printf("log           %s record %d of %d, %s: set by %s\n", ok, v.Accepted.Seq, v.Checkpoint.Size,
			v.Accepted.Time.UTC().Format(time.RFC3339), v.Accepted.Actor)
	}
	p.Printf("Verified, as of %s\n", v.At.UTC().Format(time.RFC3339))
}
