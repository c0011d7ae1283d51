package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
	"github.com/ashlar-mesh/ashlar/transparency/logtest"
)

// visit verifies the coordinator against what a trust folder remembers, and has
// the folder remember what it saw, as every command does.
func (m *machine) visit(dir, addr string, as *tls.Certificate) (*client.Client, error) {
	o := client.Options{Verifiers: m.verifiers, Certificate: as,
		Policy: attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{m.self}}}}}
	old, err := client.LoadTrust(dir)
	switch {
	case err == nil:
		o.Remembered = &old.Remembered
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	c, err := client.Dial(context.Background(), addr, o)
	if err != nil {
		return nil, err
	}
	if err := client.WriteTrust(dir, c.Verified()); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// refuses demands that a visit is refused with a code, exits 3, and changes
// nothing of what is remembered.
func (m *machine) refuses(t *testing.T, dir, addr string, code problem.Code) {
	t.Helper()
	before, err := os.ReadFile(filepath.Join(dir, client.TrustFile))
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.visit(dir, addr, nil)
	if problem.CodeOf(err) != code || problem.From(err).Kind().ExitCode() != 3 {
		t.Errorf("got %v, want %s and exit code 3", err, code)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, client.TrustFile)); !bytes.Equal(before, after) {
		t.Error("a refused visit changed what is remembered")
	}
}

// withLog runs a coordinator with a manifest, and has a trust folder remember it.
func withLog(t *testing.T) (m *machine, trust string, alice *tls.Certificate) {
	t.Helper()
	m, alice = newMachine(t), user(t)
	if err := Init(t.Context(), m.config()); err != nil {
		t.Fatal(err)
	}
	trust = filepath.Join(m.dir, "trust")
	m.while(t, m.config(), func(addr string) {
		c, err := m.visit(trust, addr, alice)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.SetManifest(t.Context(), manifestOf(alice, "1h"), nil); err != nil {
			t.Fatal(err)
		}
	})
	return m, trust, alice
}

// while runs a coordinator for as long as f.
func (m *machine) while(t *testing.T, c Config, f func(addr string)) {
	t.Helper()
	a, stop := run(t, c)
	defer func() {
		if err := stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	}()
	f(a.Client)
}

// next sets another manifest.
func next(t *testing.T, c *client.Client, alice *tls.Certificate, lease string) {
	t.Helper()
	if _, err := c.SetManifest(t.Context(), manifestOf(alice, lease), c.Verified().Statement.Manifest); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) sees(t *testing.T, trust, addr string, as *tls.Certificate) *client.Client {
	t.Helper()
	c, err := m.visit(trust, addr, as)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func copyState(t *testing.T, to, from string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// TestRestoredDatabase puts back an older copy of the state. A client that saw
// the newer one refuses it, also once it has gone on and become longer.
func TestRestoredDatabase(t *testing.T) {
	m, trust, alice := withLog(t)
	state, old := m.config().State, filepath.Join(m.dir, "old")
	copyState(t, old, state)
	m.while(t, m.config(), func(addr string) {
		c := m.sees(t, trust, addr, alice)
		for _, lease := range []string{"2h", "3h", "4h", "5h"} {
			next(t, m.sees(t, trust, addr, alice), alice, lease)
		}
		c.Close()
		h := m.sees(t, trust, addr, nil).Verified().History
		if h == nil || len(h.Revisions) != 1 {
			t.Fatalf("got history %+v, want the revision that was set since", h)
		}
	})
	copyState(t, state, old)
	m.while(t, m.config(), func(addr string) { m.refuses(t, trust, addr, "LOG-050") })
	m.while(t, m.config(), func(addr string) {
		stranger := filepath.Join(m.dir, "stranger")
		for _, lease := range []string{"6h", "7h", "8h", "9h", "10h"} {
			next(t, m.sees(t, stranger, addr, alice), alice, lease)
		}
		m.refuses(t, trust, addr, "LOG-051")
	})
}

// TestForkedReplica copies the state and lets both copies go on. Who saw one of
// them refuses the other.
func TestForkedReplica(t *testing.T) {
	m, trust, alice := withLog(t)
	fork := m.config()
	fork.State = filepath.Join(m.dir, "fork")
	copyState(t, fork.State, m.config().State)
	other := filepath.Join(m.dir, "other")
	copyState(t, other, trust)
	m.while(t, m.config(), func(one string) {
		m.while(t, fork, func(two string) {
			next(t, m.sees(t, trust, one, alice), alice, "2h")
			next(t, m.sees(t, other, two, alice), alice, "3h")
			m.sees(t, trust, one, nil)
			m.sees(t, other, two, nil)
			m.refuses(t, trust, two, "LOG-051")
			m.refuses(t, other, one, "LOG-051")
			// The longer of the two cannot pass for the other's future.
			next(t, m.sees(t, other, two, alice), alice, "4h")
			m.refuses(t, trust, two, "LOG-051")
		})
	})
}

// TestCovertManifestSwap changes the manifest in force behind the log's back, as
// somebody could who has the coordinator's keys: the state is whole, the evidence
// is genuine, and only the log tells.
func TestCovertManifestSwap(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(head map[string]json.RawMessage, first, second map[string]json.RawMessage)
		code problem.Code
	}{
		{"the first again, as a revision that nobody set", func(head, first, second map[string]json.RawMessage) {
			head["digest"], head["place"], head["record"] = first["digest"], first["place"], first["record"]
			head["number"], head["previous"] = json.RawMessage("3"), second["digest"]
		}, "LOG-053"},
		{"the first again, under the number of the second", func(head, first, _ map[string]json.RawMessage) {
			head["digest"], head["place"] = first["digest"], first["place"]
		}, "LOG-053"},
		{"the first again, as it was", func(head, first, _ map[string]json.RawMessage) {
			for k, v := range first {
				head[k] = v
			}
		}, "CRD-103"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, trust, alice := withLog(t)
			var heads []map[string]json.RawMessage
			heads = append(heads, m.tamper(t, nil))
			m.while(t, m.config(), func(addr string) {
				next(t, m.sees(t, trust, addr, alice), alice, "2h")
				m.sees(t, trust, addr, nil)
			})
			heads = append(heads, m.tamper(t, nil))
			m.tamper(t, func(head map[string]json.RawMessage) { c.edit(head, heads[0], heads[1]) })
			m.while(t, m.config(), func(addr string) { m.refuses(t, trust, addr, c.code) })
		})
	}
}

// tamper returns the record of the manifest in force, and changes it.
func (m *machine) tamper(t *testing.T, edit func(map[string]json.RawMessage)) map[string]json.RawMessage {
	t.Helper()
	s, err := m.config().check()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	unlock := func(ctx context.Context, path string) (seal.Key, error) { return seal.Open(ctx, path, s.sources()...) }
	db, err := bolt.Open(t.Context(), bolt.Config{Dir: s.State, Unlock: unlock, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	heads := store.NewTable[map[string]json.RawMessage]("manifest")
	var head map[string]json.RawMessage
	err = db.Update(t.Context(), func(tx *store.Tx) error {
		head, _ = heads.Get(tx, "current")
		if edit == nil {
			return nil
		}
		edit(head)
		return heads.Put(tx, "current", head)
	})
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// TestExportOfALiveLog exports the log of a coordinator, and damages the export.
func TestExportOfALiveLog(t *testing.T) {
	m, trust, alice := withLog(t)
	var public, private bytes.Buffer
	var key string
	var seen transparency.Checkpoint
	m.while(t, m.config(), func(addr string) {
		next(t, m.sees(t, trust, addr, alice), alice, "2h")
		c := m.sees(t, trust, addr, alice)
		if _, err := c.SetManifest(t.Context(), []byte("{}"), nil); err == nil {
			t.Fatal("a manifest of nothing was set")
		}
		c = m.sees(t, trust, addr, alice)
		log := c.Log(t.Context())
		key, seen = log.Key(), log.Checkpoint()
		if err := log.Export(t.Context(), &private, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.sees(t, trust, addr, nil).Log(t.Context()).Export(t.Context(), &public, nil); err != nil {
			t.Fatal(err)
		}
		grown, err := log.Grown(t.Context())
		if err != nil || grown.Checkpoint().Size < seen.Size {
			t.Fatalf("got %+v, %v", grown, err)
		}
		proof, e, err := log.Prove(t.Context(), 2)
		if err != nil || e.Kind != transparency.KindManifestSet {
			t.Fatalf("got %+v, %v, want the entry of the first manifest", e, err)
		}
		if _, err := proof.Verify(key, nil); err != nil {
			t.Error(err)
		}
		if n, err := log.Compare(t.Context(), bytes.NewReader(public.Bytes())); err != nil || n != seen.Size {
			t.Errorf("compared with the log: got %d, %v", n, err)
		}
		lines := strings.SplitAfter(public.String(), "\n")
		dropped := strings.Join(append(lines[:3:3], lines[4:]...), "")
		if n, err := log.Compare(t.Context(), strings.NewReader(dropped)); problem.CodeOf(err) != "LOG-062" || n != 2 {
			t.Errorf("one that was dropped, compared: got %d, %v, want LOG-062 at 2", n, err)
		}
	})
	if bytes.Equal(public.Bytes(), private.Bytes()) {
		t.Error("a user's export shows no more than anybody's")
	}
	in := transparency.ExportInput{Log: key, Seen: []transparency.Checkpoint{seen}}
	for name, b := range map[string][]byte{"public": public.Bytes(), "private": private.Bytes()} {
		r, err := transparency.VerifyExport(bytes.NewReader(b), in)
		if err != nil || r.Err() != nil || len(r.Revisions) != 2 || (r.Privates > 0) != (name == "private") {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
	lines := strings.SplitAfter(private.String(), "\n")
	for name, c := range map[string]struct {
		file string
		code problem.Code
		at   uint64
	}{
		"dropped": {strings.Join(append(lines[:3:3], lines[4:]...), ""), "LOG-061", 2},
		"altered": {strings.Replace(private.String(), `\"actor\":\"alice\"`, `\"actor\":\"mallo\"`, 1), "LOG-062", 3},
	} {
		r, err := transparency.VerifyExport(strings.NewReader(c.file), in)
		if err != nil || problem.CodeOf(r.Err()) != c.code {
			t.Errorf("%s: got %+v, %v, want %s", name, r.Findings, err, c.code)
			continue
		}
		if name == "dropped" && r.Findings[0].Entry != c.at {
			t.Errorf("%s: got entry %d, want %d", name, r.Findings[0].Entry, c.at)
		}
	}
}

// TestWitnessedDeployment has a witness of the manifest co-sign the log of a real
// coordinator, and a client demand it.
func TestWitnessedDeployment(t *testing.T) {
	m, trust, alice := withLog(t)
	o := client.Options{Verifiers: m.verifiers, Policy: attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{m.self}}}}}
	var x *logtest.Witness
	m.while(t, m.config(), func(addr string) {
		c := m.sees(t, trust, addr, alice)
		x = newWitness(t, "w.example", 1, c.Verified().Statement.LogKey)
		server := httptest.NewServer(x)
		t.Cleanup(server.Close)
		o.Witnessing = client.Witnessing{Keys: []transparency.WitnessKey{x.Key()}, AtLeast: 1, Within: time.Hour}
		if _, err := client.Dial(t.Context(), addr, o); problem.CodeOf(err) != "LOG-082" {
			t.Errorf("before it co-signed: got %v, want LOG-082", err)
		}
		named := bytes.Replace(manifestOf(alice, "1h"), []byte(`"version": 1,`), fmt.Appendf(nil, `"version": 1, "witnesses": {"w": {"key": %q, "url": %q}},`, x.Key(), server.URL), 1)
		if _, err := c.SetManifest(t.Context(), named, c.Verified().Statement.Manifest); err != nil {
			// The statement is of before the manifest that was set.
			c = m.sees(t, trust, addr, alice)
			if _, err := c.SetManifest(t.Context(), named, c.Verified().Statement.Manifest); err != nil {
				t.Fatal(err)
			}
		}
	})
	m.while(t, m.config(), func(addr string) { // submits when it starts
		deadline := time.Now().Add(patience)
		for {
			c, err := client.Dial(t.Context(), addr, o)
			if err == nil {
				defer c.Close()
				if h := c.Verified().History; len(h.Witnessed) != 1 || h.Witnessed[0].Witness != "w.example" || h.WitnessedSize == 0 {
					t.Errorf("got %+v", h)
				}
				return
			}
			if problem.CodeOf(err) != "LOG-082" || time.Now().After(deadline) {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}
