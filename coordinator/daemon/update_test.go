package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

// TestTEEUpdates changes what the platform's sealing keys rest on between two
// starts: an update opens with the old key and is sealed by the new one, and what
// goes back or has another signer waits for the holders.
func TestTEEUpdates(t *testing.T) {
	for _, mode := range []string{"product", "unique"} {
		t.Run(mode, func(t *testing.T) {
			m := newMachine(t)
			alice := newMember(t, "alice")
			_, stop, _ := deployed(t, m, m.config(), mode, 1, alice)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			sealed := func() string { return files(t, m.config().State)["seal.json"] }
			if !strings.Contains(sealed(), `"source": "sim:sgx:`+mode+`"`) {
				t.Fatalf("sealed as %s, want %s", sealed(), mode)
			}
			opens := func(what string, now platform.Misbehaviour, changes bool) {
				t.Helper()
				before := sealed()
				m.Misbehave(now)
				_, stop := run(t, m.config())
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				if changed := sealed() != before; changed != changes {
					t.Errorf("%s: sealed anew %v, want %v", what, changed, changes)
				}
			}
			recovers := func(what string, now platform.Misbehaviour) {
				t.Helper()
				m.Misbehave(now)
				waiting, ready, stop := waits(t, m.config())
				if p, err := give(t, m.session(t, waiting.Client, apiv1.PurposeRecover), alice); err != nil || !p.Done {
					t.Fatalf("%s: got %+v, %v", what, p, err)
				}
				ready()
				if err := stop(); err != nil {
					t.Fatal(err)
				}
			}
			opens("the same", platform.Misbehaviour{}, false)
			opens("firmware raised", platform.Misbehaviour{CPUSVN: 2}, true)
			opens("firmware raised, again", platform.Misbehaviour{CPUSVN: 2}, false)
			recovers("firmware went back", platform.Misbehaviour{CPUSVN: 1})
			opens("after recovery", platform.Misbehaviour{CPUSVN: 1}, false)
			opens("a newer program", platform.Misbehaviour{CPUSVN: 1, ProgramSVN: 3}, mode == "product")
			if mode == "product" {
				recovers("an older program", platform.Misbehaviour{CPUSVN: 1, ProgramSVN: 2})
				recovers("another signer", platform.Misbehaviour{CPUSVN: 1, ProgramSVN: 2, Signer: "mallory"})
			} else {
				opens("another signer is another program only by its measurement", platform.Misbehaviour{CPUSVN: 1, Signer: "mallory"}, false)
			}
		})
	}
}

// TestSealModeChanges goes through the modes, each by a manifest, and puts back
// what a crash between the manifest and the seal would leave.
func TestSealModeChanges(t *testing.T) {
	m := newMachine(t)
	alice := newMember(t, "alice")
	_, stop, set := deployed(t, m, m.config(), "product", 1, alice)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(m.config().State, "seal.json")
	for _, mode := range []string{"unique", "product", "none"} {
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		addr, stop := run(t, m.config())
		cl, err := m.dial(addr.Client, "", alice.cert)
		if err != nil {
			t.Fatal(err)
		}
		if set, err = cl.SetManifest(t.Context(), recoverable(t, mode, "1h", 1, alice), set.Digest, risks...); err != nil {
			t.Fatal(err)
		}
		if set.Recovery != nil {
			t.Errorf("%s: shares were given out again, and the holders are the same", mode)
		}
		cl.Close()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if err != nil || string(after) == string(before) {
			t.Fatalf("%s: the seal did not change, %v", mode, err)
		}
		if err := os.WriteFile(path, before, 0o600); err != nil { // as if it had crashed before
			t.Fatal(err)
		}
		_, stop = run(t, m.config())
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(path)
		want := `"source": "sim:sgx:` + mode + `"`
		if mode == "none" {
			want = `"source": "none"`
		}
		if err != nil || !strings.Contains(string(again), want) {
			t.Errorf("%s: after the next start it is %s, %v", mode, again, err)
		}
	}
}
