package attest

import (
	"reflect"
	"strings"
	"testing"
)

func simSGX() Claims {
	files := FilesDigest(map[string]Hex{"app.py": fill(5, 32)})
	return Claims{TEE: SimSGX, SGX: &SGXClaims{UniqueID: fill(1, 32), SignerID: fill(2, 32), ConfigID: append(files[:], make([]byte, 32)...)}}
}
func simTDX() Claims {
	files := FilesDigest(map[string]Hex{"app.py": fill(5, 32)})
	return Claims{TEE: SimTDX, TDX: &TDXClaims{MRTD: digest(1, 48), MROwner: digest(2, 48), MRConfigID: append(files[:], make([]byte, 16)...)}}
}
func noFiles() Claims {
	c := simSGX()
	c.SGX.ConfigID = make([]byte, 64)
	return c
}
func tailed() Claims {
	c := simTDX()
	c.TDX.MRTD[47] = 1
	return c
}

var (
	one, two = []Hex{fill(1, 32)}, []Hex{fill(2, 32)}
	app      = map[string]Hex{"app.py": fill(5, 32)}
	signer   = fill(2, 32)
)

func td(b byte) []Hex { return []Hex{fill(0xee, 48), fill(b, 48)} }

// packageCheck is a package and what it must say of the claims.
type packageCheck struct {
	name    string
	claims  Claims
	pkg     Package
	want    []string // steps that fail
	checked int      // steps, the debug step included
}

var packageChecks = []packageCheck{
	{"zero package", sgxClaims(), Package{}, []string{"ATT-029 sgx"}, 2},
	{"other TEE's reference", sgxClaims(), Package{TDX: &TDXReference{AllowAny: true}, Sim: &SimReference{AllowAny: true}}, []string{"ATT-029 sgx"}, 2},
	{"simulated under production's reference", simSGX(), Package{SGX: &SGXReference{AllowAny: true}}, []string{"ATT-029 sim"}, 2},
	{"production under the simulation's", sgxClaims(), Package{Sim: &SimReference{AllowAny: true}}, []string{"ATT-029 sgx"}, 2},
	{"unknown TEE", Claims{TEE: SNP}, Package{SGX: &SGXReference{AllowAny: true}}, []string{"ATT-029 snp"}, 2},

	{"sgx: unique id", sgxClaims(), Package{SGX: &SGXReference{UniqueID: one}}, nil, 2},
	{"sgx: one of two", sgxClaims(), Package{SGX: &SGXReference{UniqueID: []Hex{fill(7, 32), fill(1, 32)}}}, nil, 2},
	{"sgx: other unique id", sgxClaims(), Package{SGX: &SGXReference{UniqueID: two}}, []string{"ATT-012 sgx.uniqueID"}, 2},
	{"sgx: empty list accepts nothing", sgxClaims(), Package{SGX: &SGXReference{UniqueID: []Hex{}}}, []string{"ATT-012 sgx.uniqueID"}, 2},
	{"sgx: empty list accepts nothing even with any", sgxClaims(), Package{SGX: &SGXReference{UniqueID: []Hex{}, AllowAny: true}}, []string{"ATT-012 sgx.uniqueID"}, 2},
	{"sgx: empty value accepts nothing", Claims{TEE: SGX, SGX: &SGXClaims{}}, Package{SGX: &SGXReference{UniqueID: []Hex{{}}}}, []string{"ATT-012 sgx.uniqueID"}, 2},
	{"sgx: prefix is not equal", sgxClaims(), Package{SGX: &SGXReference{UniqueID: []Hex{fill(1, 31)}}}, []string{"ATT-012 sgx.uniqueID"}, 2},
	{"sgx: signer", sgxClaims(), Package{SGX: &SGXReference{SignerID: signer, ProductID: ptr(3), MinSecurityVersion: ptr(4)}}, nil, 4},
	{"sgx: lower minimum", sgxClaims(), Package{SGX: &SGXReference{SignerID: signer, ProductID: ptr(3), MinSecurityVersion: ptr(0)}}, nil, 4},
	{"sgx: all three differ", sgxClaims(), Package{SGX: &SGXReference{SignerID: fill(3, 32), ProductID: ptr(4), MinSecurityVersion: ptr(5)}},
		[]string{"ATT-012 sgx.signerID", "ATT-012 sgx.productID", "ATT-031 sgx.securityVersion"}, 4},
	{"sgx: signer alone is too little", sgxClaims(), Package{SGX: &SGXReference{SignerID: signer}}, []string{"ATT-029 sgx"}, 3},
	{"sgx: signer without version", sgxClaims(), Package{SGX: &SGXReference{SignerID: signer, ProductID: ptr(3)}}, []string{"ATT-029 sgx"}, 4},
	{"sgx: empty signer", sgxClaims(), Package{SGX: &SGXReference{SignerID: Hex{}, ProductID: ptr(3), MinSecurityVersion: ptr(4)}}, []string{"ATT-012 sgx.signerID"}, 4},
	{"sgx: unique id and product", sgxClaims(), Package{SGX: &SGXReference{UniqueID: one, ProductID: ptr(9)}}, []string{"ATT-012 sgx.productID"}, 3},
	{"sgx: nothing given", sgxClaims(), Package{SGX: &SGXReference{}}, []string{"ATT-029 sgx"}, 2},
	{"sgx: any", sgxClaims(), Package{SGX: &SGXReference{AllowAny: true}}, nil, 2},
	{"sgx: any, but a product", sgxClaims(), Package{SGX: &SGXReference{AllowAny: true, ProductID: ptr(9)}}, []string{"ATT-012 sgx.productID"}, 3},
	{"sgx: claims missing", Claims{TEE: SGX}, Package{SGX: &SGXReference{UniqueID: one, SignerID: signer, ProductID: ptr(0), MinSecurityVersion: ptr(0)}},
		[]string{"ATT-012 sgx.uniqueID", "ATT-012 sgx.signerID", "ATT-012 sgx.productID", "ATT-031 sgx.securityVersion", "ATT-037 sgx.keyAttributes"}, 5},

	{"tdx: all", tdxClaims(), Package{TDX: &TDXReference{MRTD: td(1), RTMR0: td(2), RTMR1: td(3), RTMR2: td(4), RTMR3: td(5), MRConfigID: td(6), MROwner: td(7), MROwnerConfig: td(8), MRSEAM: td(9)}}, nil, 10},
	{"tdx: all differ", tdxClaims(), Package{TDX: &TDXReference{MRTD: td(0), RTMR0: td(0), RTMR1: td(0), RTMR2: td(0), RTMR3: td(0), MRConfigID: td(0), MROwner: td(0), MROwnerConfig: td(0), MRSEAM: td(0)}},
		[]string{"ATT-012 tdx.mrtd", "ATT-012 tdx.rtmr0", "ATT-012 tdx.rtmr1", "ATT-012 tdx.rtmr2", "ATT-012 tdx.rtmr3", "ATT-012 tdx.mrConfigID", "ATT-012 tdx.mrOwner", "ATT-012 tdx.mrOwnerConfig", "ATT-012 tdx.mrSEAM"}, 10},
	{"tdx: without MRTD", tdxClaims(), Package{TDX: &TDXReference{RTMR0: td(2)}}, []string{"ATT-029 tdx.mrtd"}, 3},
	{"tdx: any", tdxClaims(), Package{TDX: &TDXReference{AllowAny: true}}, nil, 2},
	{"tdx: empty register list", tdxClaims(), Package{TDX: &TDXReference{MRTD: td(1), RTMR3: []Hex{}}}, []string{"ATT-012 tdx.rtmr3"}, 3},
	{"tdx: claims missing", Claims{TEE: TDX}, Package{TDX: &TDXReference{MRTD: td(1)}}, []string{"ATT-012 tdx.mrtd", "ATT-037 tdx.septVEDisable"}, 2},
	{"tdx: claims of the other shape", Claims{TEE: TDX, SGX: sgxClaims().SGX}, Package{TDX: &TDXReference{MRTD: []Hex{fill(1, 32)}}}, []string{"ATT-012 tdx.mrtd", "ATT-037 tdx.septVEDisable"}, 2},

	{"sim sgx", simSGX(), Package{Sim: &SimReference{Program: one, Agent: two, Files: app}}, nil, 4},
	{"sim tdx", simTDX(), Package{Sim: &SimReference{Program: one, Agent: two, Files: app}}, nil, 4},
	{"sim: any agent", simTDX(), Package{Sim: &SimReference{Program: one, Files: app}}, nil, 3},
	{"sim: program", simSGX(), Package{Sim: &SimReference{Program: two, Files: app}}, []string{"ATT-012 sim.program"}, 3},
	{"sim: agent", simTDX(), Package{Sim: &SimReference{Program: one, Agent: one, Files: app}}, []string{"ATT-012 sim.agent"}, 4},
	{"sim: no agent accepted", simTDX(), Package{Sim: &SimReference{Program: one, Agent: []Hex{}, Files: app}}, []string{"ATT-012 sim.agent"}, 4},
	{"sim: files not listed", simSGX(), Package{Sim: &SimReference{Program: one}}, []string{"ATT-012 sim.files"}, 3},
	{"sim: files differ", simTDX(), Package{Sim: &SimReference{Program: one, Files: map[string]Hex{"app.py": fill(6, 32)}}}, []string{"ATT-012 sim.files"}, 3},
	{"sim: no files", noFiles(), Package{Sim: &SimReference{Program: one}}, nil, 3},
	{"sim: listed files not measured", noFiles(), Package{Sim: &SimReference{Program: one, Files: app}}, []string{"ATT-012 sim.files"}, 3},
	{"sim: register with a tail", tailed(), Package{Sim: &SimReference{Program: one, Files: app}}, []string{"ATT-012 sim.program"}, 3},
	{"sim: program missing", simSGX(), Package{Sim: &SimReference{Files: app}}, []string{"ATT-029 sim.program"}, 3},
	{"sim: any", simSGX(), Package{Sim: &SimReference{AllowAny: true}}, nil, 2},
	{"sim: claims missing", Claims{TEE: SimSGX}, Package{Sim: &SimReference{Program: one}}, []string{"ATT-012 sim.program", "ATT-012 sim.files"}, 3},
	{"sim: claims of the other shape", Claims{TEE: SimTDX, SGX: simSGX().SGX}, Package{Sim: &SimReference{Program: one, Files: app}}, []string{"ATT-012 sim.program", "ATT-012 sim.files"}, 3},
}

func TestCheckPackage(t *testing.T) {
	for _, c := range packageChecks {
		t.Run(c.name, func(t *testing.T) {
			p := Policy{Package: c.pkg, PackageName: "web"}
			steps := p.packageSteps(c.claims)
			if got := failed(steps); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			want := c.checked
			if c.claims.TDX != nil {
				want++ // tdx.migratable
			}
			for _, s := range steps {
				if s.Code == CodeAttributes {
					want++ // of every enclave and guest
				}
			}
			if len(steps) != want {
				t.Errorf("got %d steps, want %d", len(steps), want)
			}
			complete(t, steps, "packages.web")
		})
	}
}

// TestMigratable checks that a guest which the host may export is refused, in
// every package but one that allows debug guests.
func TestMigratable(t *testing.T) {
	claims := func(attributes ...byte) Claims {
		c := tdxClaims()
		c.TDX.TDAttributes = attributes
		return c
	}
	pkg := Package{TDX: &TDXReference{MRTD: []Hex{fill(1, 48)}}}
	debug := pkg
	debug.AllowDebug = true
	for _, c := range []struct {
		name   string
		claims Claims
		pkg    Package
		want   []string
	}{
		{"plain", claims(0, 0, 0, 0x10, 0, 0, 0, 0), pkg, nil},
		{"migratable", claims(0, 0, 0, 0x30, 0, 0, 0, 0), pkg, []string{"ATT-013 tdx.migratable"}},
		{"migratable, any measurement", claims(0, 0, 0, 0x30, 0, 0, 0, 0), Package{TDX: &TDXReference{AllowAny: true}}, []string{"ATT-013 tdx.migratable"}},
		{"migratable, debug allowed", claims(0, 0, 0, 0x30, 0, 0, 0, 0), debug, nil},
		{"no attributes", claims(), pkg, []string{"ATT-037 tdx.septVEDisable"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := failed(Policy{Package: c.pkg}.packageSteps(c.claims)); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// complete checks that steps have all that a reader needs.
func complete(t *testing.T, steps []Step, source string) {
	t.Helper()
	for _, s := range steps {
		if s.Code == "" || s.Field == "" || s.Want == "" || s.Got == "" || s.Source != source || s.OK != (s.Fix == Fix{}) {
			t.Errorf("incomplete step %+v", s)
		}
	}
}

func TestCheckPlatform(t *testing.T) {
	accept := func(s ...TCBStatus) *DCAPPlatform { return &DCAPPlatform{AcceptedTCBStatuses: s} }
	status := func(s TCBStatus) func(*TCBClaims) { return func(t *TCBClaims) { t.Status = s } }
	keep := func(*TCBClaims) {}
	unchecked := func(t *TCBClaims) { t.RevocationChecked = false }
	for _, c := range []struct {
		name   string
		tee    TEE
		change func(*TCBClaims)
		rules  Platform
		want   []string
	}{
		{"default", SGX, keep, Platform{}, nil},
		{"status by default", SGX, status(SWHardeningNeeded), Platform{}, []string{"ATT-014 tcb.status"}},
		{"status accepted", SGX, status(SWHardeningNeeded), Platform{SGX: accept(SWHardeningNeeded)}, nil},
		{"UpToDate is always accepted", SGX, keep, Platform{SGX: accept(OutOfDate)}, nil},
		{"status accepted for another TEE", SGX, status(SWHardeningNeeded), Platform{TDX: accept(SWHardeningNeeded), Sim: accept(SWHardeningNeeded)}, []string{"ATT-014 tcb.status"}},
		{"status accepted for the simulation", SimTDX, status(OutOfDate), Platform{Sim: accept(OutOfDate)}, nil},
		{"simulation under production's rules", SimTDX, status(OutOfDate), Platform{TDX: accept(OutOfDate)}, []string{"ATT-014 tcb.status"}},
		{"revoked by default", TDX, status(Revoked), Platform{}, []string{"ATT-014 tcb.status"}},
		{"revoked even if listed", TDX, status(Revoked), Platform{TDX: accept(Revoked)}, []string{"ATT-014 tcb.status"}},
		{"no status", TDX, status(""), Platform{}, []string{"ATT-014 tcb.status"}},
		{"no status even if listed", TDX, status(""), Platform{TDX: accept("")}, []string{"ATT-014 tcb.status"}},
		{"unknown status", TDX, status("Splendid"), Platform{}, []string{"ATT-014 tcb.status"}},
		{"advisories accepted", SGX, keep, Platform{SGX: &DCAPPlatform{AcceptedAdvisories: []string{"SA-2", "SA-1", "SA-9"}}}, nil},
		{"an advisory not accepted", SGX, keep, Platform{SGX: &DCAPPlatform{AcceptedAdvisories: []string{"SA-1"}}}, []string{"ATT-015 tcb.advisories"}},
		{"no advisory accepted", SGX, keep, Platform{SGX: &DCAPPlatform{AcceptedAdvisories: []string{}}}, []string{"ATT-015 tcb.advisories"}},
		{"none accepted, none there", SGX, func(t *TCBClaims) { t.Advisories = nil }, Platform{SGX: &DCAPPlatform{AcceptedAdvisories: []string{}}}, nil},
		{"evaluation number at the floor", SGX, keep, Platform{SGX: &DCAPPlatform{MinTCBEvaluation: 18}}, nil},
		{"evaluation number below", SGX, keep, Platform{SGX: &DCAPPlatform{MinTCBEvaluation: 19}}, []string{"ATT-016 tcb.evaluationNumber"}},
		{"revocation not checked", SGX, unchecked, Platform{}, []string{"ATT-018 tcb.revocationChecked"}},
		{"revocation not checked, allowed", SGX, unchecked, Platform{Endorsements: EndorsementRules{AllowUncheckedRevocation: true}}, nil},
		{"all at once", SGX, func(t *TCBClaims) { t.Status, t.RevocationChecked = OutOfDate, false },
			Platform{SGX: &DCAPPlatform{AcceptedAdvisories: []string{}, MinTCBEvaluation: 19}},
			[]string{"ATT-014 tcb.status", "ATT-015 tcb.advisories", "ATT-016 tcb.evaluationNumber", "ATT-018 tcb.revocationChecked"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := Claims{TEE: c.tee, TCB: goodTCB()}
			c.change(&claims.TCB)
			p := Policy{Platform: c.rules, PlatformName: "default"}
			k := check{source: section("platforms", p.PlatformName)}
			k.platform(claims, &p.Platform)
			steps := k.steps
			if got := failed(steps); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			complete(t, steps, "platforms.default")
		})
	}
}

// TestUncheckedRevocationIsSaid checks that an accepted verdict without CRLs
// says so plainly.
func TestUncheckedRevocationIsSaid(t *testing.T) {
	p := sgxPolicy()
	p.Platform.Endorsements.AllowUncheckedRevocation = true
	c := sgxClaims()
	c.TCB.RevocationChecked = false
	for _, s := range p.Check(c) {
		if s.Code == CodeNoRevocation && s.OK && strings.Contains(s.Got, "NOT checked") {
			return
		}
	}
	t.Error("no step says that revocation was not checked")
}

func TestNearest(t *testing.T) {
	sgx := func(id, signer byte) Policy {
		return Policy{Package: Package{SGX: &SGXReference{UniqueID: []Hex{fill(id, 32)}, SignerID: fill(signer, 32)}}}
	}
	for _, c := range []struct {
		name     string
		packages map[string]Policy
		want     string
		distance int
	}{
		{"no packages", nil, "", 0},
		{"exact", map[string]Policy{"a": sgx(8, 8), "b": sgx(1, 2)}, "b", 0},
		{"nearest", map[string]Policy{"a": sgx(8, 8), "b": sgx(8, 2), "c": {}}, "b", 1},
		{"of equals the first name", map[string]Policy{"z": sgx(8, 2), "m": sgx(1, 8), "q": sgx(7, 7)}, "m", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 20 {
				if name, d := Nearest(sgxClaims(), c.packages); name != c.want || d != c.distance {
					t.Fatalf("got %q at %d, want %q at %d", name, d, c.want, c.distance)
				}
			}
		})
	}
}
