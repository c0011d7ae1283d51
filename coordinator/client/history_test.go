package client

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
	"github.com/ashlar-mesh/ashlar/transparency/logtest"
)

// TestMemory has a client remember a deployment, changes the deployment in each
// way that must not stay hidden, and lets the client come back.
func TestMemory(t *testing.T) {
	digest := func(raw string) string {
		sum := sha256.Sum256([]byte(raw))
		return hex.EncodeToString(sum[:])
	}
	for _, c := range []struct {
		name string
		edit func(*testing.T, *deployment)
		code problem.Code
		revs int // shown, if it passes
	}{
		{"nothing", func(*testing.T, *deployment) {}, "", 0},
		{"more entries", func(t *testing.T, d *deployment) {
			for range 700 {
				d.enter(t, "start", "", nil)
			}
		}, "", 0},
		{"two manifests set", func(t *testing.T, d *deployment) { d.set(t, "{1}"); d.enter(t, "start", "", nil); d.set(t, "{2}") }, "", 2},
		{"set and set back, shown", func(t *testing.T, d *deployment) { d.set(t, "{1}"); d.set(t, "{}") }, "", 2},

		{"rolled back", func(t *testing.T, d *deployment) { d.log = cut(d.log, 3) }, "LOG-050", 0},
		{"rolled back and gone on", func(t *testing.T, d *deployment) {
			d.log = cut(d.log, 3)
			for range 10 {
				d.enter(t, "start", "other", nil)
			}
		}, "LOG-051", 0},
		{"forked at the same size", func(t *testing.T, d *deployment) {
			size := d.log.Size()
			d.log = cut(d.log, size-1)
			d.enter(t, "start", "other", nil)
		}, "LOG-051", 0},
		{"another log", func(t *testing.T, d *deployment) {
			old := d.log
			d.log = logtest.NewLog(2)
			for _, e := range old.Entries() {
				d.log.Append(e)
			}
		}, "LOG-052", 0},
		{"another manifest, without an entry", func(t *testing.T, d *deployment) {
			d.enter(t, "start", "", nil)
			d.manifest = bytes.Repeat([]byte{1}, 32)
		}, "LOG-053", 0},
		{"another manifest and no entries at all", func(_ *testing.T, d *deployment) { d.manifest = bytes.Repeat([]byte{1}, 32) }, "LOG-053", 0},
		{"another revision, without an entry", func(t *testing.T, d *deployment) {
			d.enter(t, "start", "", nil)
			d.manifest, d.revision = bytes.Repeat([]byte{1}, 32), d.revision+1
		}, "LOG-053", 0},
		{"an accepted manifest that is not the newest", func(t *testing.T, d *deployment) {
			d.set(t, "{1}")
			first, revision := d.manifest, d.revision
			d.set(t, "{2}")
			d.manifest, d.revision = first, revision
		}, "LOG-053", 0},
		{"an older manifest under its own revision", func(t *testing.T, d *deployment) {
			was, revision := d.manifest, d.revision
			d.set(t, "{1}")
			d.manifest, d.revision = was, revision
		}, "LOG-053", 0},
		{"a revision lower than before", func(_ *testing.T, d *deployment) { d.revision-- }, "CRD-103", 0},
		{"a revision left out", func(t *testing.T, d *deployment) { d.revision++; d.set(t, "{1}") }, "LOG-054", 0},
		{"a revision after another manifest", func(t *testing.T, d *deployment) { d.manifest = bytes.Repeat([]byte{1}, 32); d.set(t, "{1}") }, "LOG-054", 0},
		{"a revision without a number", func(t *testing.T, d *deployment) {
			d.enter(t, transparency.KindManifestSet, digest("{1}"), nil)
		}, "LOG-054", 0},
		{"an entry served that was altered", func(t *testing.T, d *deployment) {
			d.set(t, "{1}")
			d.alter = func(x transparency.Tile, b []byte) []byte {
				if x.Level == transparency.EntryLevel {
					b = bytes.ReplaceAll(b, []byte(`"alice"`), []byte(`"mallo"`))
				}
				return b
			}
		}, "LOG-056", 0},
		{"a tile served that was altered", func(t *testing.T, d *deployment) {
			d.set(t, "{1}")
			d.alter = func(x transparency.Tile, b []byte) []byte {
				if x.Level == 0 {
					b[5] ^= 1
				}
				return b
			}
		}, "LOG-055", 0},
		{"a served entry dropped", func(t *testing.T, d *deployment) {
			d.set(t, "{1}")
			d.alter = func(x transparency.Tile, b []byte) []byte {
				if x.Level == transparency.EntryLevel {
					b = b[2+int(b[0])<<8+int(b[1]):]
				}
				return b
			}
		}, "LOG-008", 0},
		{"an entry that names another place", func(t *testing.T, d *deployment) { d.log.Append(d.log.Entries()[1]) }, "LOG-056", 0},
		{"an entry that is none", func(t *testing.T, d *deployment) { d.log.Append([]byte("{}")) }, "LOG-011", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, dir := newDeployment(t), filepath.Join(t.TempDir(), "trust")
			d.set(t, "{}")
			d.enter(t, "start", "", nil)
			addr := d.serve(t, d)
			visit := func() (Verified, error) {
				o := options()
				if old, err := LoadTrust(dir); err == nil {
					o.Remembered = &old.Remembered
				}
				cl, err := Dial(t.Context(), addr, o)
				if err != nil {
					return Verified{}, err
				}
				defer cl.Close()
				return cl.Verified(), WriteTrust(dir, cl.Verified())
			}
			if v, err := visit(); err != nil || v.History != nil {
				t.Fatalf("the first visit: got %+v, %v", v.History, err)
			}
			before, err := os.ReadFile(filepath.Join(dir, TrustFile))
			if err != nil {
				t.Fatal(err)
			}
			c.edit(t, d)
			v, err := visit()
			if problem.CodeOf(err) != c.code || err != nil && problem.From(err).Kind() == problem.Internal {
				t.Fatalf("got %v, want code %q", err, c.code)
			}
			after, _ := os.ReadFile(filepath.Join(dir, TrustFile))
			if err != nil {
				if !bytes.Equal(before, after) {
					t.Error("something was written before everything passed")
				}
				return
			}
			if v.History == nil || !v.History.Remembered || len(v.History.Revisions) != c.revs || v.History.Since != 6 || v.History.Size != d.log.Size() {
				t.Errorf("got history %+v, want %d revisions since 6", v.History, c.revs)
			}
			if _, err := visit(); err != nil {
				t.Errorf("the third visit: %v", err)
			}
		})
	}
}

// cut returns the first entries of a log.
func cut(l *logtest.Log, size uint64) *logtest.Log {
	short := logtest.NewLog(1)
	for _, e := range l.Entries()[:size] {
		short.Append(e)
	}
	return short
}

func TestEntriesAreBounded(t *testing.T) {
	d := newDeployment(t)
	d.set(t, "{}")
	o := options()
	addr := d.serve(t, d)
	cl, err := Dial(t.Context(), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	cl.Close()
	old := cl.Verified().Remembered()
	for range 300 {
		d.enter(t, "start", "", nil)
	}
	o.Remembered = &old
	for limit, code := range map[uint64]problem.Code{299: "LOG-057", 300: "", 0: "", MaxEntries + 1: "CRD-110"} {
		o.Entries = limit
		if _, err := Dial(t.Context(), addr, o); problem.CodeOf(err) != code {
			t.Errorf("at most %d: got %v, want code %q", limit, err, code)
		}
	}
}

// TestFirstContact reads the log since the acceptance where it is asked for.
func TestFirstContact(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries uint64
		edit    func(*testing.T, *deployment)
		code    problem.Code
		read    uint64
	}{
		{"good", 100, func(*testing.T, *deployment) {}, "", 7},
		{"none set yet", 100, func(t *testing.T, d *deployment) { *d = *newDeployment(t) }, "", 4},
		{"farther back than is read", 3, func(*testing.T, *deployment) {}, "", 0},
		{"another was set since", 100, func(t *testing.T, d *deployment) {
			was, revision, at := d.manifest, d.revision, d.accepted
			d.set(t, "{1}")
			d.manifest, d.revision, d.accepted = was, revision, at
		}, "LOG-053", 0},
		{"never accepted", 100, func(_ *testing.T, d *deployment) { d.manifest = bytes.Repeat([]byte{1}, 32) }, "CRD-122", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeployment(t)
			d.set(t, "{}")
			for range 7 {
				d.enter(t, "start", "", nil)
			}
			c.edit(t, d)
			o := options()
			o.Entries = c.entries
			cl, err := Dial(t.Context(), d.serve(t, d), o)
			if problem.CodeOf(err) != c.code {
				t.Fatalf("got %v, want code %q", err, c.code)
			}
			if err != nil {
				return
			}
			defer cl.Close()
			if h := cl.Verified().History; h == nil || h.Remembered || h.Size-h.Since != c.read || h.Read != (c.read > 0) {
				t.Errorf("got %+v, want %d entries read", h, c.read)
			}
		})
	}
}

func TestWitnessing(t *testing.T) {
	now := time.Now()
	keys := make([]transparency.WitnessKey, 3)
	cosigners := make([]*transparency.Cosigner, 3)
	for i := range keys {
		c, err := transparency.NewCosigner("w"+strconv.Itoa(i)+".example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, 32)))
		if err != nil {
			t.Fatal(err)
		}
		cosigners[i], keys[i] = c, c.Key()
	}
	cosign := func(t *testing.T, note []byte, at time.Time, by ...int) []byte {
		for _, i := range by {
			line, err := cosigners[i].Cosign(note, at)
			if err != nil {
				t.Fatal(err)
			}
			note = append(note, line...)
		}
		return note
	}
	for _, c := range []struct {
		name   string
		signed func(*testing.T, *deployment) []byte
		want   int // co-signatures that count
		code   problem.Code
	}{
		{"two of three", func(t *testing.T, d *deployment) []byte { return cosign(t, d.log.Note(300), now, 0, 2) }, 2, ""},
		{"older than the statement", func(t *testing.T, d *deployment) []byte { return cosign(t, d.log.Note(100), now, 0, 2) }, 2, ""},
		{"one too few", func(t *testing.T, d *deployment) []byte { return cosign(t, d.log.Note(300), now, 1) }, 1, "LOG-082"},
		{"none", func(*testing.T, *deployment) []byte { return nil }, 0, "LOG-082"},
		{"too old", func(t *testing.T, d *deployment) []byte {
			return cosign(t, cosign(t, d.log.Note(300), now, 0), now.Add(-2*time.Hour), 2)
		}, 1, "LOG-082"},
		{"of the future", func(t *testing.T, d *deployment) []byte { return cosign(t, d.log.Note(300), now.Add(time.Hour), 0, 2) }, 0, "LOG-082"},
		{"not theirs", func(t *testing.T, d *deployment) []byte {
			return append(cosign(t, d.log.Note(300), now, 0), cosign(t, d.log.Note(299), now, 2)[len(d.log.Note(299)):]...)
		}, 0, "LOG-081"},
		{"of another log", func(t *testing.T, d *deployment) []byte { return cosign(t, logtest.NewLog(7).Note(0), now, 0, 2) }, 0, "LOG-002"},
		{"of a fork", func(t *testing.T, d *deployment) []byte {
			fork := cut(d.log, 100)
			fork.Append([]byte("other"))
			return cosign(t, fork.Note(101), now, 0, 2)
		}, 0, "LOG-051"},
		{"newer than the statement", func(t *testing.T, d *deployment) []byte {
			longer := d.log.Fork()
			longer.Append([]byte("{}"))
			d.later = longer
			return cosign(t, longer.Note(301), now, 0, 2)
		}, 2, ""},
		{"of a newer fork", func(t *testing.T, d *deployment) []byte {
			longer := cut(d.log, 100)
			for longer.Size() < 310 {
				longer.Append([]byte("other"))
			}
			d.later = longer
			return cosign(t, longer.Note(310), now, 0, 2)
		}, 0, "LOG-051"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeployment(t)
			for d.log.Size() < 300 {
				d.enter(t, "start", "", nil)
			}
			d.signed = c.signed(t, d)
			o := options()
			o.Witnessing = Witnessing{Keys: keys, AtLeast: 2, Within: time.Hour}
			cl, err := Dial(t.Context(), d.serve(t, d), o)
			if problem.CodeOf(err) != c.code {
				t.Fatalf("got %v, want code %q", err, c.code)
			}
			if err != nil {
				return
			}
			defer cl.Close()
			if h := cl.Verified().History; len(h.Witnessed) != c.want {
				t.Errorf("got %+v, want %d", h.Witnessed, c.want)
			}
			if d.later != nil {
				return
			}
			b, err := cl.Portable(t.Context())
			if err != nil || b.Witnessed == nil {
				t.Fatalf("got %+v, %v", b.Witnessed, err)
			}
			in := synthetic()
			in.Nonce, in.Witnessing = nil, o.Witnessing
			if v, err := VerifyBundle(b, in); err != nil || len(v.History.Witnessed) != c.want {
				t.Errorf("from a bundle: got %+v, %v", v.History, err)
			}
			b.Witnessed.Proof = append(b.Witnessed.Proof, make([]byte, 32))
			if _, err := VerifyBundle(b, in); problem.CodeOf(err) != "LOG-005" {
				t.Errorf("with another proof: got %v, want LOG-005", err)
			}
		})
	}
	if _, err := Dial(t.Context(), "127.0.0.1:1", Options{Witnessing: Witnessing{AtLeast: 1}}); problem.CodeOf(err) != "CRD-110" {
		t.Errorf("more than there are: got %v, want CRD-110", err)
	}
}

// TestConcurrentVisitors write what they saw in any order: the newest stays.
func TestConcurrentVisitors(t *testing.T) {
	d, dir := newDeployment(t), t.TempDir()
	addr := d.serve(t, d)
	visit := func() Verified {
		o := options()
		if old, err := LoadTrust(dir); err == nil {
			o.Remembered = &old.Remembered
		}
		cl, err := Dial(t.Context(), addr, o)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		return cl.Verified()
	}
	if err := WriteTrust(dir, visit()); err != nil {
		t.Fatal(err)
	}
	d.enter(t, "start", "", nil)
	early := visit()
	d.enter(t, "start", "", nil)
	if err := WriteTrust(dir, visit()); err != nil {
		t.Fatal(err)
	}
	if err := WriteTrust(dir, early); err != nil {
		t.Errorf("the slower one: got %v, want nothing done", err)
	}
	if got, _ := LoadTrust(dir); got.Checkpoint != string(d.log.Note(6)) {
		t.Errorf("got %q, want the newest checkpoint", got.Checkpoint)
	}
}
