package recovery

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/shares"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// team is a group of holders, and a manifest that names them.
type team struct {
	people []shares.Holder
	m      *manifest.Manifest
}

func newTeam(t testing.TB, threshold int, names ...string) team {
	t.Helper()
	m := &manifest.Manifest{Users: map[string]manifest.User{}, Recovery: &manifest.Recovery{Keys: map[string]string{}, Threshold: threshold}}
	var all team
	for _, name := range names {
		signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		key, err := shares.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		if m.Recovery.Keys[name], err = key.Public(); err != nil {
			t.Fatal(err)
		}
		m.Users[name] = manifest.User{Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
		all.people = append(all.people, shares.Holder{User: name, Key: key, Signer: crypto.Signer(signer), Random: rand.Reader})
	}
	all.m = m
	return all
}

// clock is moved by hand.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

// place is a folder with a sealed key.
type place struct {
	Config
	dir   string
	clock *clock
	fail  *error // of the source
}

func newPlace(t testing.TB) place {
	t.Helper()
	var fail error
	c := &clock{time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	source := func(mode manifest.SealMode) seal.Source {
		if mode == manifest.SealNone {
			return seal.NoSource()
		}
		return seal.Platform("test", string(mode), func(context.Context, string, []byte) ([]byte, []byte, error) {
			return []byte("0123456789abcdef"), nil, fail
		})
	}
	dir := t.TempDir()
	p := place{Config{Files: Folder(dir), Source: source, Random: rand.Reader, Now: c.now}, dir, c, &fail}
	p.SealPath = filepath.Join(dir, "seal.json")
	var err error
	if p.Key, err = seal.Create(t.Context(), p.SealPath, source("product"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p place) open(t testing.TB, mark Mark) *Keeper {
	t.Helper()
	k, err := Open(t.Context(), p.Config, mark)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// follow puts a manifest in force.
func follow(t testing.TB, k *Keeper, m *manifest.Manifest, mark Mark) Mark {
	t.Helper()
	c, err := k.Prepare(t.Context(), m, mark)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c.Mark
}

// TestCrashes stops a change of the holders at every step, and opens what is
// there.
func TestCrashes(t *testing.T) {
	first, second := newTeam(t, 1, "alice"), newTeam(t, 2, "bob", "carol")
	for name, c := range map[string]struct {
		committed bool // the state names the new document
		renamed   bool
		holders   int
	}{
		"before the state names it": {false, false, 1},
		"after the state names it":  {true, false, 2},
		"after it has its name":     {true, true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			old := follow(t, p.open(t, Mark{}), first.m, Mark{})
			k := p.open(t, old)
			change, err := k.Prepare(t.Context(), second.m, old)
			if err != nil {
				t.Fatal(err)
			}
			if c.renamed {
				if err := k.Files.Rename(t.Context(), nextFile, File); err != nil {
					t.Fatal(err)
				}
			}
			mark := old
			if c.committed {
				mark = change.Mark
			}
			again := p.open(t, mark)
			if got := len(again.Document().Holders); got != c.holders {
				t.Errorf("got %d holders, want %d", got, c.holders)
			}
			if _, err := again.Files.Read(t.Context(), nextFile); !errors.Is(err, fs.ErrNotExist) {
				t.Error("the next document is still there")
			}
		})
	}
}

func TestKeeperFollowsTheManifest(t *testing.T) {
	p, team1 := newPlace(t), newTeam(t, 2, "alice", "bob", "carol")
	k := p.open(t, Mark{})
	mark := follow(t, k, team1.m, Mark{})
	if mark.Generation != 1 || follow(t, k, team1.m, mark).Generation != 1 {
		t.Errorf("got generation %d, and another for the same holders", mark.Generation)
	}
	renewed := newTeam(t, 2, "alice").m.Users["alice"]
	team1.m.Users["alice"] = renewed // another certificate
	if mark = follow(t, k, team1.m, mark); mark.Generation != 2 {
		t.Errorf("another certificate: got generation %d, want 2", mark.Generation)
	}
	team1.m.Recovery.Threshold = 3
	if mark = follow(t, k, team1.m, mark); mark.Generation != 3 {
		t.Errorf("another threshold: got generation %d, want 3", mark.Generation)
	}
	c, err := k.Prepare(t.Context(), newTeam(t, 1, "mallory").m, mark)
	if err != nil {
		t.Fatal(err)
	}
	c.Abort()
	if got := p.open(t, mark).Document(); len(got.Holders) != 3 {
		t.Errorf("after a change that was given up: %d holders, want 3", len(got.Holders))
	}
	*p.fail = problem.New("STO-013", "no key")
	if _, err := k.Prepare(t.Context(), team1.m, mark); problem.CodeOf(err) != "STO-013" {
		t.Errorf("a source without a key: got %v, want STO-013 before anything changes", err)
	}
	*p.fail = nil
	if mark = follow(t, k, &manifest.Manifest{}, mark); mark.Digest != nil || k.Document() != nil {
		t.Errorf("nobody any more: got %+v", mark)
	}
	if _, err := k.Prepare(t.Context(), &manifest.Manifest{Seal: manifest.SealNone}, mark); problem.CodeOf(err) != "REC-032" {
		t.Errorf("nothing opens it: got %v, want REC-032", err)
	}
	if d, err := Read(t.Context(), p.Files); err != nil || d != nil {
		t.Errorf("the document is still there: %v", err)
	}
}

func TestDocumentsOfOthersAreRefused(t *testing.T) {
	p, other, team1 := newPlace(t), newPlace(t), newTeam(t, 1, "alice")
	mark := follow(t, p.open(t, Mark{}), team1.m, Mark{})
	foreign := follow(t, other.open(t, Mark{}), team1.m, Mark{})
	path := filepath.Join(p.dir, File)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(filepath.Join(other.dir, File))
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(*apiv1.RecoveryDocument)) []byte {
		d, err := parse(good)
		if err != nil {
			t.Fatal(err)
		}
		change(d)
		return append(encode(d), '\n')
	}
	for name, c := range map[string]struct {
		file []byte
		mark Mark
		want problem.Code
	}{
		"good":             {good, mark, ""},
		"another state's":  {theirs, foreign, "REC-003"},
		"holder exchanged": {edit(func(d *apiv1.RecoveryDocument) { d.Holders[0].User = "mallory" }), mark, "REC-003"},
		"MAC changed":      {edit(func(d *apiv1.RecoveryDocument) { d.MAC[0] ^= 1 }), mark, "REC-003"},
		"a later one":      {good, Mark{Generation: 2, Digest: make(attest.Hex, 32)}, "REC-004"},
		"damaged":          {good[:len(good)/2], mark, "REC-002"},
		"missing":          {nil, mark, "REC-002"},
		"compact":          {compact(t, good), mark, "REC-002"},
		"no holders":       {edit(func(d *apiv1.RecoveryDocument) { d.Holders = nil }), mark, "REC-002"},
		"threshold":        {edit(func(d *apiv1.RecoveryDocument) { d.Threshold = 2 }), mark, "REC-002"},
		"version":          {edit(func(d *apiv1.RecoveryDocument) { d.Version = 2 }), mark, "REC-002"},
		"short deployment": {edit(func(d *apiv1.RecoveryDocument) { d.Deployment = d.Deployment[:31] }), mark, "REC-002"},
	} {
		if c.file == nil {
			_ = os.Remove(path)
		} else if err := os.WriteFile(path, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), p.Config, c.mark); problem.CodeOf(err) != c.want {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func compact(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// give sends the share of a holder to the desk's session.
func give(t testing.TB, k *Desk, h shares.Holder, at time.Time) (apiv1.RecoveryProgress, *Outcome, error) {
	t.Helper()
	raw, err := k.Session(apiv1.PurposeRecover, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := h.Approve(*k.Document(), raw, at)
	if err != nil {
		t.Fatal(err)
	}
	return k.Take(m)
}

func TestDesk(t *testing.T) {
	p, team1 := newPlace(t), newTeam(t, 2, "alice", "bob", "carol")
	k := p.open(t, Mark{})
	follow(t, k, team1.m, Mark{})
	raw, err := k.Session(apiv1.PurposeRecover, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := k.Session(apiv1.PurposeRecover, nil); err != nil || string(again) != string(raw) {
		t.Errorf("the session changed, %v", err)
	}
	if progress, o, err := give(t, k.Desk, team1.people[0], p.clock.at); err != nil || o != nil || len(progress.Given) != 1 {
		t.Fatalf("got %+v, %v, %v", progress, o, err)
	}
	p.clock.at = p.clock.at.Add(SessionLife)
	if got := k.Progress(); len(got) != 0 {
		t.Errorf("after an hour: got %+v, want that the share is forgotten", got)
	}
	if progress, o, err := give(t, k.Desk, team1.people[1], p.clock.at); err != nil || o != nil || len(progress.Given) != 1 || progress.Given[0] != "bob" {
		t.Fatalf("got %+v, %v, %v, want bob's alone", progress, o, err)
	}
	progress, o, err := give(t, k.Desk, team1.people[2], p.clock.at)
	if err != nil || o == nil || !progress.Done || !k.Opens(o) || len(o.Approvals) != 2 {
		t.Fatalf("got %+v, %v, want the key", progress, err)
	}
	if _, _, err := k.Take(o.Approvals[0].Message); problem.CodeOf(err) != "REC-018" {
		t.Errorf("a share for a session that is over: got %v, want REC-018", err)
	}
	if strings.Contains(string(o.Session), hex.EncodeToString(o.Key.Reveal())) {
		t.Error("the session shows the key")
	}
}

// TestWrongSharesAreCounted lets a holder send shares that are well signed and
// wrong.
func TestWrongSharesAreCounted(t *testing.T) {
	p, team1 := newPlace(t), newTeam(t, 2, "alice", "bob")
	k := p.open(t, Mark{})
	follow(t, k, team1.m, Mark{})
	raw, err := k.Session(apiv1.PurposeRecover, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A share of another split of the same state, which alice holds by mistake.
	other, err := newDocument(rand.Reader, p.Key, mustHolders(t, team1.m), 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := team1.people[0].Approve(*other, raw, p.clock.at)
	if err != nil {
		t.Fatal(err)
	}
	for range maxWrong {
		if _, _, err := k.Take(wrong); problem.CodeOf(err) != "REC-014" {
			t.Fatalf("got %v, want REC-014", err)
		}
	}
	if _, _, err := k.Take(wrong); problem.CodeOf(err) != "REC-020" {
		t.Errorf("one more: got %v, want REC-020", err)
	}
	if progress, o, err := give(t, k.Desk, team1.people[1], p.clock.at); err != nil || o != nil || len(progress.Given) != 1 {
		t.Errorf("bob's: got %+v, %v, want it in", progress, err)
	}
	p.clock.at = p.clock.at.Add(SessionLife)
	if progress, _, err := give(t, k.Desk, team1.people[0], p.clock.at); err != nil || len(progress.Given) != 1 {
		t.Errorf("an hour later: got %+v, %v", progress, err)
	}
}

func mustHolders(t testing.TB, m *manifest.Manifest) []holder {
	t.Helper()
	all, err := holdersOf(m)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestExchangedWrapping gives good shares a document whose wrapped key is
// another's: all that is there is refused, and the shares are forgotten.
func TestExchangedWrapping(t *testing.T) {
	p, other, team1 := newPlace(t), newPlace(t), newTeam(t, 1, "alice")
	k := p.open(t, Mark{})
	follow(t, k, team1.m, Mark{})
	theirs, err := newDocument(rand.Reader, other.Key, mustHolders(t, team1.m), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	d := *k.Document()
	d.Wrapped = theirs.Wrapped
	desk := NewDesk(&d, p.clock.now)
	if _, o, err := give(t, desk, team1.people[0], p.clock.at); problem.CodeOf(err) != "REC-021" || o != nil {
		t.Errorf("got %v, want REC-021", err)
	}
	if got := desk.Progress(); len(got) != 0 {
		t.Errorf("got %+v, want that the share is forgotten", got)
	}
}

func FuzzParse(f *testing.F) {
	p, team1 := newPlace(f), newTeam(f, 1, "alice", "bob")
	d, err := newDocument(rand.Reader, p.Key, mustHolders(f, team1.m), 1, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encode(d))
	f.Add([]byte(`{"version": 1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parse(b)
		if err != nil {
			return
		}
		if d.Version != 1 || len(d.Holders) == 0 || d.Threshold < 1 || d.Threshold > len(d.Holders) {
			t.Errorf("%q passed", b)
		}
		if authentic(p.Key, d) == nil && !bytes.Equal(d.MAC, macOf(p.Key, d)) {
			t.Errorf("%q is authentic", b)
		}
	})
}
