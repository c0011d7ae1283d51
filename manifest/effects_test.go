package manifest

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// governed is a small manifest with everything that governs it.
func governed(t *testing.T) *Manifest {
	t.Helper()
	m := copied(t, mustParse(t, sample(t)))
	m.Users["bob"] = User{Certificate: "b", Roles: []string{"operator"}}
	m.Users["carol"] = User{Certificate: "c", Roles: []string{"packager"}}
	m.Roles["packager"] = Role{Actions: []string{"updateManifest:packages/*", "raiseFloor:default"}}
	m.Approvals = map[string]int{UpdateManifest: 2}
	m.Recovery = &Recovery{Keys: map[string]string{"alice": "a", "bob": "b", "carol": "c"}, Threshold: 2}
	m.Witnesses = map[string]Witness{"w": {Key: "k"}}
	m.Secrets["signer"] = Secret{Type: ECDSA, Bits: 256, Scope: Shared, Readers: []string{"web"}, OnUpdate: "keep", Operations: []Operation{Sign}}
	m.Secrets["token"] = Secret{Type: Opaque, Scope: Shared, Readers: []string{"web"}, OnUpdate: "keep", Depositors: []string{"web"}}
	return m
}

func TestEffectsAndRisks(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(m *Manifest)
		want  []string // "subject: text [risk]"
	}{
		{"marble removed", func(m *Manifest) { delete(m.Marbles, "db") }, []string{"db: no marble any more: running instances are refused at their next renewal (≤ 30m), and have no identity after 1h [drop-marbles]"}},
		{"security version lowered", func(m *Manifest) { m.Packages["web"].SGX.MinSecurityVersion = new(uint16) }, []string{"package web: accepts security version 0 again; at least 3 was demanded [lower-floors]"}},
		{"security version raised", func(m *Manifest) { *m.Packages["web"].SGX.MinSecurityVersion = 9 }, nil},
		{"number lowered", func(m *Manifest) { m.Approvals = nil }, []string{"approvals: updateManifest needs 1 user; 2 before [lower-approvals]"}},
		{"number raised", func(m *Manifest) { m.Approvals["updateManifest:secrets/*"] = 2 }, []string{"approvals: updateManifest:secrets/* needs 2 users; 1 before"}},
		{"recovery removed", func(m *Manifest) { m.Recovery = nil }, []string{"recovery: nobody can open the state where sealing cannot; shares that were given out open nothing more [weaken-recovery]"}},
		{"threshold lowered", func(m *Manifest) { m.Recovery.Threshold = 1 }, []string{"recovery: shares that open the state: 1; 2 before [weaken-recovery]"}},
		{"threshold raised", func(m *Manifest) { m.Recovery.Threshold = 3 }, []string{"recovery: shares that open the state: 3; 2 before"}},
		{"holder replaced", func(m *Manifest) { m.Recovery.Keys["carol"] = "d" }, []string{"recovery: carol has another key"}},
		{"witness removed", func(m *Manifest) { m.Witnesses = nil }, []string{"witness w: its co-signatures count no more [drop-witnesses]"}},
		{"witness added", func(m *Manifest) { m.Witnesses["x"] = Witness{} }, []string{"witness x: may co-sign the log"}},
		{"everybody removed", func(m *Manifest) { m.Users = nil }, []string{"alice: is no user any more", "mesh: nobody may set the next manifest: this one stays [lock-out]"}},
		{"too few left", func(m *Manifest) { delete(m.Users, "bob") }, []string{"bob: is no user any more", "mesh: not enough users may change platforms/*, marbles/*/package, marbles/*/platform, marbles/*/lease and "}},
		{"roles are nobody's", func(m *Manifest) {
			m.Roles["operator"] = Role{Actions: []string{"updateManifest:packages/*", "updateManifest:users/*"}}
		}, []string{"alice: may no longer: updateManifest", "mesh: not enough users may change platforms/*"}},
		{"right gained", func(m *Manifest) {
			m.Roles["packager"] = Role{Actions: []string{"updateManifest:packages/*", "raiseFloor:*", "revoke:*"}}
		}, []string{"carol: may now: raiseFloor:*", "carol: may now: revoke:*"}},
		{"use-only no more", func(m *Manifest) { s := m.Secrets["signer"]; s.Operations = nil; m.Secrets["signer"] = s }, []string{"signer: is destroyed and made anew: what was handed out can't become use-only, nor the other way round [drop-secrets]"}},
		{"depositor", func(m *Manifest) { s := m.Secrets["token"]; s.Depositors = []string{"cart"}; m.Secrets["token"] = s }, []string{"token: may be deposited by cart", "token: may be deposited by web no more"}},
		{"rotation", func(m *Manifest) {
			s := m.Secrets["token"]
			s.Rotation.Every = m.Marbles["db"].Lease
			m.Secrets["token"] = s
		}, []string{"token: rotates every 1h"}},
		{"organization", func(m *Manifest) {
			s := m.Secrets["cartTLS"]
			s.Organization = []string{"Shop"}
			m.Secrets["cartTLS"] = s
		}, []string{"cartTLS: gets a new certificate for the same key"}},
		{"seal", func(m *Manifest) { m.Seal = SealNone }, []string{"state: is sealed by no platform"}},
		{"CA", func(m *Manifest) { m.CA.RootRotation = 2 * m.CA.MeshRotation }, []string{"mesh: mesh CA every 552h, root every 1104h, both roots trusted for 720h"}},
		{"renewal", func(m *Manifest) { w := m.Marbles["db"]; w.Renewal.CutAfter = 1; m.Marbles["db"] = w }, []string{"db: instances whose renewals fail are degraded"}},
		{"tests", func(m *Manifest) { m.Tests = m.Tests[1:] }, []string{"tests: web must reach db: is demanded no more"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, now := governed(t), governed(t)
			c.alter(now)
			d := Compare(old, now)
			got := effectLines(t, d)
			for _, want := range c.want {
				if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, want) }) {
					t.Errorf("got %q, want %q among them", got, want)
				}
			}
			if c.want == nil && got != nil && strings.Contains(strings.Join(got, " "), "[") {
				t.Errorf("got %q, want no risk", got)
			}
			for _, e := range Compare(now, now).Effects {
				t.Errorf("against itself: %+v", e)
			}
			if again := Compare(old, now); len(again.Changes) == 0 {
				t.Error("the change is not seen")
			}
		})
	}
}

// TestOwners reads who may set the next manifest.
func TestOwners(t *testing.T) {
	for _, c := range []struct{ edit, want string }{
		{"", "2 of alice, bob may set the next one; carol may change parts of it"},
		{"one", "alice, bob may set the next one; carol may change parts of it"},
		{"parts", "carol may change parts of it"},
		{"none", "nobody may set the next one: this one stays"},
	} {
		m := governed(t)
		switch c.edit {
		case "one":
			m.Approvals = nil
		case "parts":
			delete(m.Roles, "operator")
		case "none":
			m.Roles = nil
		}
		effects := Compare(nil, m).Effects
		if got := effects[len(effects)-1].Text; got != c.want {
			t.Errorf("%s: got %q, want %q", c.edit, got, c.want)
		}
	}
}

// TestRisksAreDocumented keeps the list of risks in docs/manifest.md whole.
func TestRisksAreDocumented(t *testing.T) {
	raw, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, risk := range AllRisks() {
		if !strings.Contains(string(raw), "| `"+risk+"` |") {
			t.Errorf("%s does not explain %s", docsFile, risk)
		}
	}
	if !slices.IsSorted(AllRisks()) {
		t.Error("the risks are not sorted")
	}
}
