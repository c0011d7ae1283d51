package manifest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
)

// TestDemandsOfEdits edits a document as people do.
func TestDemandsOfEdits(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		want           []string // path, then rights beside updateManifest, then op and line of each change
	}{
		{"nothing", "", "", nil},
		{"layout", `"lease": "30m",`, `"lease":    "30m",`, []string{"notes: ~0"}},
		{"a default written out", `"sql": { "port": 5432 }`, `"sql": { "port": 5432, "protocol": "tcp" }`, []string{"notes: ~0"}},
		{"a note of the document", `"version": 1,`, `"version": 1, "$comment": "x",`, []string{"notes: ~3"}},
		{"the schema", `manifest/v1.json",`, `manifest/v1.json", "$comment": "",`, []string{"notes: ~0"}},
		{"a note of a package", `"productID": 16,`, `"$comment": "x", "productID": 16,`, []string{"packages/web: ~6"}},
		{"a note beside a higher version", `"minSecurityVersion": 3`, `"minSecurityVersion": 4, "$comment": "x"`, []string{"packages/web: ~7 ~6"}},
		{"a note of a marble", `"lease": "30m",`, `"lease": "30m", "$comment": "x",`, []string{"marbles/web/notes: ~29"}},
		{"a note of a call", `"listen": 8081,`, `"listen": 8081, "$comment": "x",`, []string{"marbles/web/calls: ~33"}},
		{"a note of a secret", `"bits": 256,`, `"bits": 256, "$comment": "x",`, []string{"secrets/sessionKey/notes: ~54"}},
		{"another package", `"package": "web"`, `"package": "cart"`, []string{"marbles/web/package: ~28"}},
		{"layout beside a change", `"package": "web"`, `"package":     "cart"`, []string{"marbles/web/package: ~28"}},
		{"a reader", `["web"] }`, `["web", "cart"] }`, []string{"secrets/sessionKey/readers: +54"}},
		{"a route less", `, "routes": ["GET /items/*"]`, ``, []string{"marbles/web/calls: -34"}},
		{"arguments in another order", `["web", "--name"`, `["--name", "web"`, []string{"marbles/web/parameters: ~37"}},
		{"a higher version", `"minSecurityVersion": 3`, `"minSecurityVersion": 4`, []string{"packages/web raiseSecurityVersion:web: ~7"}},
		{"a lower version", `"minSecurityVersion": 3`, `"minSecurityVersion": 2`, []string{"packages/web: ~7"}},
		{"a higher floor", `"minTCBEvaluation": 19`, `"minTCBEvaluation": 20`, []string{"platforms/default raiseFloor:default: ~22"}},
		{"a lower floor", `"minTCBEvaluation": 19`, `"minTCBEvaluation": 18`, []string{"platforms/default: ~22"}},
		{"a test", `"to": "db", "allow": true`, `"to": "cart", "allow": true`, []string{"tests: -67 +67"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := sample(t)
			if !strings.Contains(string(raw), c.old) {
				t.Fatalf("no %s", c.old)
			}
			now := mustParse(t, []byte(strings.Replace(string(raw), c.old, c.new, 1)))
			var got []string
			for _, d := range Demands(mustParse(t, raw), now) {
				text := d.Path
				for _, r := range d.Rights[1:] {
					text += " " + r
				}
				text += ":"
				for _, ch := range d.Changes {
					text += fmt.Sprintf(" %s%d", ch.Op, ch.Line)
				}
				got = append(got, text)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if got := Demands(nil, mustParse(t, sample(t))); got != nil {
		t.Errorf("a first manifest demands %v", got)
	}
}

// TestItemsThatLookAlike exchanges values whose short forms are the same.
func TestItemsThatLookAlike(t *testing.T) {
	digest := func(middle string) string {
		return `"91c4` + strings.Repeat(middle, 44) + `07bb"`
	}
	pkg := func(middle string) []byte {
		return ruled(`{"tdx":{"mrtd":[`+digest("00")+`,`+digest(middle)+`],"rtmr1":`+hexes(48)+`,"rtmr2":`+hexes(48)+`}}`, `{}`)
	}
	old, now := mustParse(t, pkg("11")), mustParse(t, pkg("22"))
	if got := demanded(old, now); !slices.Equal(got, []string{"packages/p"}) {
		t.Errorf("got %v, want packages/p", got)
	}
	if d := Compare(old, now); len(d.Changes) != 2 {
		t.Errorf("got %+v, want one measurement removed and one added", d.Changes)
	}
}

// TestRaisesFloor alters one rule of a platform at a time.
func TestRaisesFloor(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		want           bool
	}{
		{"first rule", `{}`, `{"tdx":{"minTCBEvaluation":20}}`, true},
		{"fewer statuses", `{"sgx":{"acceptedTCBStatuses":["UpToDate","SWHardeningNeeded"]}}`, `{"sgx":{"acceptedTCBStatuses":["UpToDate"]}}`, true},
		{"no statuses", `{"sgx":{"acceptedTCBStatuses":["SWHardeningNeeded"]}}`, `{}`, true},
		{"another status", `{"sgx":{"acceptedTCBStatuses":["SWHardeningNeeded"]}}`, `{"sgx":{"acceptedTCBStatuses":["OutOfDate"]}}`, false},
		{"refused advisory", `{"sgx":{"refusedAdvisories":["INTEL-SA-00002"]}}`, `{"sgx":{"refusedAdvisories":["INTEL-SA-00001","INTEL-SA-00002"]}}`, true},
		{"no refused advisory", `{"sgx":{"refusedAdvisories":["INTEL-SA-00002"]}}`, `{}`, false},
		{"fewer accepted advisories", `{"sgx":{"acceptedAdvisories":["INTEL-SA-00002"]}}`, `{"sgx":{"acceptedAdvisories":[]}}`, false},
		{"any advisory", `{"sgx":{"acceptedAdvisories":["INTEL-SA-00002"]}}`, `{}`, false},
		{"later date", `{"sgx":{"minTCBDate":"2025-01-01T00:00:00Z"}}`, `{"sgx":{"minTCBDate":"2025-02-01T00:00:00Z"}}`, true},
		{"earlier date", `{"sgx":{"minTCBDate":"2025-02-01T00:00:00Z"}}`, `{"sgx":{"minTCBDate":"2025-01-01T00:00:00Z"}}`, false},
		{"one up, one down", `{"sgx":{"minTCBEvaluation":19},"tdx":{"minTCBEvaluation":19}}`, `{"sgx":{"minTCBEvaluation":20},"tdx":{"minTCBEvaluation":18}}`, false},
		{"machines", `{}`, `{"sgx":{"fmspcs":["00606a000000"]}}`, false},
		{"grace stays", `{"sgx":{"minTCBEvaluation":19,"grace":{"until":"2027-01-31T00:00:00Z","minTCBEvaluation":17}}}`, `{"sgx":{"minTCBEvaluation":20,"grace":{"until":"2027-01-31T00:00:00Z","minTCBEvaluation":17}}}`, true},
		{"grace raised", `{"sgx":{"minTCBEvaluation":19,"grace":{"until":"2027-01-31T00:00:00Z","minTCBEvaluation":17}}}`, `{"sgx":{"minTCBEvaluation":20,"grace":{"until":"2027-01-31T00:00:00Z","minTCBEvaluation":20}}}`, true},
		{"grace begins", `{"sgx":{"minTCBEvaluation":19}}`, `{"sgx":{"minTCBEvaluation":20,"grace":{"until":"2027-01-31T00:00:00Z","minTCBEvaluation":17}}}`, false},
		{"grace ends later", `{"sgx":{"minTCBEvaluation":19,"grace":{"until":"2027-01-31T00:00:00Z","minTCBEvaluation":17}}}`, `{"sgx":{"minTCBEvaluation":20,"grace":{"until":"2028-01-31T00:00:00Z","minTCBEvaluation":17}}}`, false},
		{"AMD", `{"snp":{"minTCB":{"Milan":{"snp":24}}}}`, `{"snp":{"minTCB":{"Milan":{"snp":25}}}}`, true},
		{"AMD, lower in one part", `{"snp":{"minTCB":{"Milan":{"snp":24,"microcode":2}}}}`, `{"snp":{"minTCB":{"Milan":{"snp":25,"microcode":1}}}}`, false},
		{"AMD, another product", `{"snp":{"minTCB":{"Milan":{"snp":24}}}}`, `{"snp":{"minTCB":{"Milan":{"snp":24},"Genoa":{}}}}`, false},
		{"AMD, one product less", `{"snp":{"minTCB":{"Milan":{"snp":24},"Genoa":{}}}}`, `{"snp":{"minTCB":{"Milan":{"snp":24}}}}`, false},
		{"AMD, firmware", `{"snp":{"minTCB":{"Milan":{}}}}`, `{"snp":{"minTCB":{"Milan":{}},"minFirmware":"1.55"}}`, true},
		{"AMD, launch floor stays", `{"snp":{"minTCB":{"Milan":{"snp":24}},"minLaunchTCB":{"Milan":{"snp":9}}}}`, `{"snp":{"minTCB":{"Milan":{"snp":25}},"minLaunchTCB":{"Milan":{"snp":9}}}}`, true},
		{"AMD, launch floor lowered", `{"snp":{"minTCB":{"Milan":{"snp":24}},"minLaunchTCB":{"Milan":{"snp":9}}}}`, `{"snp":{"minTCB":{"Milan":{"snp":25}},"minLaunchTCB":{"Milan":{"snp":8}}}}`, false},
		{"AMD at all", `{}`, `{"snp":{"minTCB":{"Milan":{"snp":25}}}}`, false},
		{"age", `{"endorsements":{"maxAge":"720h"}}`, `{"endorsements":{"maxAge":"700h"},"sgx":{"minTCBEvaluation":20}}`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			pkg := `{"sgx":{"uniqueID":` + hexes(32) + `}}`
			old, now := mustParse(t, ruled(pkg, c.old)), mustParse(t, ruled(pkg, c.new))
			d := Demands(old, now)
			if got := len(d) == 1 && slices.Equal(d[0].Rights[1:], []string{"raiseFloor:default"}); got != c.want {
				t.Errorf("got %t, want %t: %+v", got, c.want, d)
			}
			if c.want && c.name != "grace raised" && len(loosened(full(old.Platforms["default"]), full(now.Platforms["default"]))) > 0 {
				t.Error("something is accepted that was not")
			}
			if was := old.Platforms["default"]; c.want && raisesFloor(now.Platforms["default"], was) {
				t.Error("the way back is a raise as well")
			}
		})
	}
}

// TestRaisesSecurityVersion alters one field of a package at a time.
func TestRaisesSecurityVersion(t *testing.T) {
	n16, n32 := func(n uint16) *uint16 { return &n }, func(n uint32) *uint32 { return &n }
	base := func() attest.Package {
		return attest.Package{SGX: &attest.SGXReference{SignerID: make(attest.Hex, 32), ProductID: n16(1), MinSecurityVersion: n16(3)},
			SNP: &attest.SNPReference{MinGuestSVN: n32(7)}, Azure: &attest.AzureReference{SNP: &attest.SNPReference{MinGuestSVN: n32(8)}}}
	}
	for _, c := range []struct {
		name  string
		alter func(p *attest.Package)
		want  bool
	}{
		{"higher", func(p *attest.Package) { p.SGX.MinSecurityVersion = n16(4) }, true},
		{"all higher", func(p *attest.Package) {
			p.SGX.MinSecurityVersion, p.SGX.MinConfigSVN, p.SNP.MinGuestSVN, p.Azure.SNP.MinGuestSVN = n16(4), n16(1), n32(8), n32(9)
		}, true},
		{"lower", func(p *attest.Package) { p.SGX.MinSecurityVersion = n16(2) }, false},
		{"not given any more", func(p *attest.Package) { p.SNP.MinGuestSVN = nil }, false},
		{"one up, one down", func(p *attest.Package) { p.SGX.MinSecurityVersion, p.Azure.SNP.MinGuestSVN = n16(4), n32(7) }, false},
		{"higher, and debug", func(p *attest.Package) { p.SGX.MinSecurityVersion, p.AllowDebug = n16(4), true }, false},
		{"higher, and another signer", func(p *attest.Package) { p.SGX.MinSecurityVersion, p.SGX.SignerID = n16(4), attest.Hex{31: 1} }, false},
		{"higher, under another TEE too", func(p *attest.Package) { p.SGX.MinSecurityVersion, p.TDX = n16(4), &attest.TDXReference{} }, false},
		{"higher, under one TEE less", func(p *attest.Package) { p.SGX.MinSecurityVersion, p.SNP = n16(4), nil }, false},
		{"firmware's interface", func(p *attest.Package) { p.SNP.MinABI = &attest.SNPFirmware{Major: 1} }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, now := base(), base()
			c.alter(&now)
			if got := raisesSecurityVersion(old, now); got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
			if old.SGX.MinSecurityVersion == nil || *old.SGX.MinSecurityVersion != 3 {
				t.Error("the package was changed")
			}
		})
	}
}

// roleKinds are what users of one kind may do, and the kinds of path that they
// may change.
var roleKinds = []struct {
	name    string
	actions []string
	paths   []string
}{
	{"full", []string{UpdateManifest}, []string{"packages/web", "platforms/default", "marbles/web/package", "marbles/web/platform", "marbles/web/calls", "marbles/web/serves",
		"marbles/web/parameters", "marbles/web/lease", "marbles/web/renewal", "marbles/web/dnsNames", "marbles/web/maxInstances", "secrets/db/readers", "secrets/db/depositors", "secrets/db/operations",
		"secrets/db/type", "users/alice", "roles/ops", "approvals", "proposalLifetime", "recovery", "seal", "ca", "witnesses/x", "tests", "trustDomain", "version", "notes"}},
	{"any path", []string{"updateManifest:*"}, nil}, // as full
	{"integrity", []string{"updateManifest:packages/*", "updateManifest:platforms/*", "updateManifest:marbles/*/package", "updateManifest:marbles/*/platform"},
		[]string{"packages/web", "platforms/default", "marbles/web/package", "marbles/web/platform"}},
	{"grants", []string{"updateManifest:marbles/*/calls", "updateManifest:marbles/*/serves", "updateManifest:secrets/*/readers"},
		[]string{"marbles/web/calls", "marbles/web/serves", "secrets/db/readers"}},
	{"governance", []string{"updateManifest:users/*", "updateManifest:roles/*", "updateManifest:approvals", "updateManifest:recovery"},
		[]string{"users/alice", "roles/ops", "approvals", "recovery"}},
	{"one marble", []string{"updateManifest:marbles/web"}, []string{"marbles/web/package", "marbles/web/platform", "marbles/web/calls", "marbles/web/serves", "marbles/web/parameters",
		"marbles/web/lease", "marbles/web/renewal", "marbles/web/dnsNames", "marbles/web/maxInstances"}},
	{"another marble", []string{"updateManifest:marbles/cart"}, []string{}},
	{"deeper than any path", []string{"updateManifest:marbles/web/parameters/env", "updateManifest:packages/web/sgx"}, []string{}},
	{"narrow", []string{"raiseSecurityVersion:web", "raiseFloor:default", "raiseSecurityVersion:*", "raiseFloor:*"}, []string{}},
	{"others", []string{ManageEndorsements, "writeSecret:*", "readSecret:*", "rotateSecret:*", RotateCA, "revoke:*", BreakGlass, Backup}, []string{}},
	{"none", nil, []string{}},
}

// TestRoleMatrix decides every kind of path for every kind of role, alone and
// with a number of two.
func TestRoleMatrix(t *testing.T) {
	every := roleKinds[0].paths
	for _, kind := range roleKinds {
		paths := kind.paths
		if paths == nil {
			paths = every
		}
		m := &Manifest{Users: map[string]User{"u": {Roles: []string{"r"}}, "v": {Roles: []string{"r"}}, "full": {Roles: []string{"full"}}},
			Roles: map[string]Role{"r": {Actions: kind.actions}, "full": {Actions: []string{UpdateManifest}}}}
		for _, path := range every {
			demand := []Demand{newDemand(path, nil)}
			want := slices.Contains(paths, path)
			m.Approvals = nil
			if got := Settled(m, demand, []string{"u"}) == nil; got != want {
				t.Errorf("%s: %s: got %t, want %t", kind.name, path, got, want)
			}
			m.Approvals = map[string]int{UpdateManifest: 2}
			if Settled(m, demand, []string{"u", "u", "nobody"}) != nil == false {
				t.Errorf("%s: %s: one user was enough for two", kind.name, path)
			}
			if got := Settled(m, demand, []string{"u", "v"}) == nil; got != want {
				t.Errorf("%s: %s, two users: got %t, want %t", kind.name, path, got, want)
			}
			if got := Settled(m, demand, []string{"u", "full"}) == nil; got != want {
				t.Errorf("%s: %s, with a full user: got %t, want %t", kind.name, path, got, want)
			}
		}
	}
}

// TestSettled has revisions that take several people.
func TestSettled(t *testing.T) {
	m := &Manifest{
		Users: map[string]User{"ian": {Roles: []string{"integrity"}}, "ida": {Roles: []string{"integrity"}}, "gus": {Roles: []string{"grants"}}, "eve": {Roles: []string{"emergency"}}, "pat": {Roles: []string{"governance"}}, "pia": {Roles: []string{"governance"}}},
		Roles: map[string]Role{"integrity": {Actions: []string{"updateManifest:packages/*", "updateManifest:marbles/*/package"}}, "grants": {Actions: []string{"updateManifest:marbles/*/calls"}},
			"emergency": {Actions: []string{"raiseSecurityVersion:*"}}, "governance": {Actions: []string{"updateManifest:approvals", "updateManifest:users/*"}}},
		Approvals: map[string]int{"updateManifest:packages/*": 2, "updateManifest:packages/web": 1, "updateManifest:users/root": 3},
	}
	raise := newDemand("packages/web", nil)
	raise.Rights = append(raise.Rights, "raiseSecurityVersion:web")
	lower := newDemand("approvals", nil)
	lower.Least = 2
	for _, c := range []struct {
		name    string
		demands []Demand
		agreed  string
		missing string // path needed/agreed
	}{
		{"nothing demanded", nil, "", ""},
		{"nobody", []Demand{newDemand("packages/web", nil)}, "", "packages/web 2/0"},
		{"one of two", []Demand{newDemand("packages/web", nil)}, "ian", "packages/web 2/1"},
		{"two of two", []Demand{newDemand("packages/web", nil)}, "ian ida", ""},
		{"the same twice", []Demand{newDemand("packages/web", nil)}, "ian ian", "packages/web 2/1"},
		{"a raise alone", []Demand{raise}, "eve", ""},
		{"no raise alone", []Demand{newDemand("packages/web", nil)}, "eve", "packages/web 2/0"},
		{"a raise by others", []Demand{raise}, "ian", "packages/web 2/1"},
		{"both kinds", []Demand{newDemand("marbles/web/package", nil), newDemand("marbles/web/calls", nil)}, "ian", "marbles/web/calls 1/0"},
		{"both kinds, both people", []Demand{newDemand("marbles/web/package", nil), newDemand("marbles/web/calls", nil)}, "ian gus", ""},
		{"each of the other kind", []Demand{newDemand("marbles/web/calls", nil)}, "ian ida", "marbles/web/calls 1/0"},
		{"approvals lowered by one", []Demand{lower}, "pat", "approvals 2/1"},
		{"approvals lowered by two", []Demand{lower}, "pat pia", ""},
		{"more than there are", []Demand{newDemand("users/root", nil)}, "pat pia", "users/root 3/2 impossible"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, x := range Settled(m, c.demands, strings.Fields(c.agreed)) {
				text := fmt.Sprintf("%s %d/%d", x.Path, x.Needed, len(x.Agreed))
				if !x.Possible() {
					text += " impossible"
				}
				got = append(got, text)
			}
			if strings.Join(got, ", ") != c.missing {
				t.Errorf("got %q, want %q", got, c.missing)
			}
		})
	}
}

// TestNumbersAreLoweredByAsManyAsTheyName edits approvals.
func TestNumbersAreLoweredByAsManyAsTheyName(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, new map[string]int
		want     int
	}{
		{"raised", map[string]int{UpdateManifest: 2}, map[string]int{UpdateManifest: 3}, 0},
		{"added", nil, map[string]int{BreakGlass: 3}, 0},
		{"lowered", map[string]int{"updateManifest:secrets/*": 3, BreakGlass: 2}, map[string]int{"updateManifest:secrets/*": 2, BreakGlass: 2}, 3},
		{"removed", map[string]int{"revoke:users/*": 2}, map[string]int{}, 2},
		{"for fewer", map[string]int{"updateManifest:packages/*": 4}, map[string]int{"updateManifest:packages/web": 4}, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Demands(&Manifest{Approvals: c.old}, &Manifest{Approvals: c.new})
			if len(d) != 1 || d[0].Path != "approvals" || d[0].Least != c.want {
				t.Errorf("got %+v, want approvals with %d", d, c.want)
			}
		})
	}
}

// TestManyRightsAreCheap has as many users, roles, actions and numbers as a
// manifest may.
func TestManyRightsAreCheap(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"version":1,"trustDomain":"t","packages":{"p":{"sgx":{"uniqueID":` + hexes(32) + `}}},"marbles":{"a":{"package":"p"}},"roles":{`)
	for i := range 64 {
		fmt.Fprintf(&b, `"r%d":{"actions":["updateManifest:packages/*"`, i)
		for j := range 63 {
			fmt.Fprintf(&b, `,"updateManifest:users/u%d"`, (i*63+j)%256)
		}
		b.WriteString(`]},`)
	}
	text := strings.TrimSuffix(b.String(), ",") + `},"approvals":{`
	for i := range 64 {
		text += fmt.Sprintf(`"updateManifest:users/u%d":2,`, i)
	}
	text = strings.TrimSuffix(text, ",") + `},"users":{`
	for i := range 256 {
		roles := make([]string, 16)
		for j := range roles {
			roles[j] = fmt.Sprintf(`"r%d"`, (i+j)%64)
		}
		text += fmt.Sprintf(`"u%d":{"certificate":%q,"roles":[%s]},`, i, newCertificate(t, int64(i)), strings.Join(roles, ","))
	}
	raw := []byte(strings.TrimSuffix(text, ",") + "}}")
	old := mustParse(t, raw)
	now := mustParse(t, bytes.ReplaceAll(raw, []byte(`:2`), []byte(`:1`)))
	if got := Settled(old, Demands(old, now), []string{"u0", "u1"}); len(got) != 1 || got[0].Path != "approvals" {
		t.Errorf("got %+v, want nobody for approvals", got)
	}
	if d := Compare(old, now); len(d.Risks()) != 1 {
		t.Errorf("got risks %v", d.Risks())
	}
}
