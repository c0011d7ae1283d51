package attest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// snpGuest is a guest that meets snpPolicy, byte for byte and level for level.
func snpGuest() Claims {
	fill := func(b byte, n int) Hex { return bytes.Repeat([]byte{b}, n) }
	level := SNPTCB{Bootloader: 4, TEE: 1, SNP: 24, Microcode: 219}
	return Claims{TEE: SNP, ReportData: make(Hex, 64), TCB: TCBClaims{RevocationChecked: true}, SNP: &SNPClaims{
		Version: 3, Measurement: fill(1, 48), HostData: fill(2, 32), IDKeyDigest: fill(3, 48), AuthorKeyDigest: fill(4, 48),
		FamilyID: fill(5, 16), ImageID: fill(6, 16), GuestSVN: 7, ReportedTCB: level, CommittedTCB: level, CurrentTCB: level, LaunchTCB: level,
		CurrentFirmware: SNPFirmware{1, 55, 29}, CommittedFirmware: SNPFirmware{1, 55, 29}, Signer: "VCEK", Product: "Milan", ChipID: fill(8, 64)}}
}

func snpPolicy() Policy {
	c := snpGuest().SNP
	svn := uint32(7)
	return Policy{
		Package: Package{SNP: &SNPReference{Measurement: []Hex{{9}, c.Measurement}, HostData: []Hex{c.HostData}, IDKeyDigest: []Hex{c.IDKeyDigest},
			AuthorKeyDigest: []Hex{c.AuthorKeyDigest}, FamilyID: []Hex{c.FamilyID}, ImageID: []Hex{c.ImageID}, MinGuestSVN: &svn}},
		Platform: Platform{SNP: &SNPPlatform{MinTCB: map[string]SNPTCB{"Milan": c.ReportedTCB}, MinFirmware: &SNPFirmware{1, 55, 29}, ChipIDs: []Hex{c.ChipID}}},
	}
}

func failedSteps(steps []Step) []string {
	var names []string
	for _, s := range steps {
		if !s.OK {
			names = append(names, s.Code+" "+s.Field)
		}
	}
	return names
}

// TestCheckSNP breaks one thing at a time, in the claims or in the policy.
func TestCheckSNP(t *testing.T) {
	one := uint32(1)
	for _, c := range []struct {
		name   string
		change func(*SNPClaims, *SNPReference, *SNPPlatform)
		want   []string
	}{
		{"nothing", func(*SNPClaims, *SNPReference, *SNPPlatform) {}, nil},
		{"measurement", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.Measurement[0]++ }, []string{"ATT-012 snp.measurement"}},
		{"host data", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.HostData[31]++ }, []string{"ATT-012 snp.hostData"}},
		{"ID key", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.IDKeyDigest[0]++ }, []string{"ATT-012 snp.idKeyDigest"}},
		{"author key", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.AuthorKeyDigest[0]++ }, []string{"ATT-012 snp.authorKeyDigest"}},
		{"family", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.FamilyID[0]++ }, []string{"ATT-012 snp.familyID"}},
		{"image", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.ImageID[0]++ }, []string{"ATT-012 snp.imageID"}},
		{"claim missing", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.HostData = nil }, []string{"ATT-012 snp.hostData"}},
		{"guest SVN", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.GuestSVN = 6 }, []string{"ATT-031 snp.guestSVN"}},
		{"VMPL 1", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.VMPL = 1 }, []string{"ATT-033 snp.vmpl"}},
		{"VMPL 1 wanted", func(c *SNPClaims, r *SNPReference, _ *SNPPlatform) { c.VMPL, r.VMPL = 1, &one }, nil},
		{"VMPL 0 where 1 is wanted", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) { r.VMPL = &one }, []string{"ATT-033 snp.vmpl"}},
		{"migration", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.Policy.MigrateMA = true }, []string{"ATT-033 snp.policy.migrateMA"}},
		{"migration allowed", func(c *SNPClaims, r *SNPReference, _ *SNPPlatform) { c.Policy.MigrateMA, r.AllowMigration = true, true }, nil},
		{"no reference", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) { *r = SNPReference{} }, []string{"ATT-029 snp.measurement"}},
		{"any", func(c *SNPClaims, r *SNPReference, _ *SNPPlatform) { *r, c.VMPL = SNPReference{AllowAny: true}, 3 }, nil},
		{"any, but with migration", func(c *SNPClaims, r *SNPReference, _ *SNPPlatform) {
			*r, c.Policy.MigrateMA = SNPReference{AllowAny: true}, true
		}, []string{"ATT-033 snp.policy.migrateMA"}},
		{"any, but one of none", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) {
			*r = SNPReference{AllowAny: true, Measurement: []Hex{}}
		}, []string{"ATT-012 snp.measurement"}},
		{"empty lists", func(_ *SNPClaims, r *SNPReference, p *SNPPlatform) {
			r.Measurement, r.HostData, r.IDKeyDigest, r.AuthorKeyDigest, r.FamilyID, r.ImageID = []Hex{}, []Hex{}, []Hex{}, []Hex{}, []Hex{}, []Hex{}
			p.ChipIDs, p.MinTCB = []Hex{}, map[string]SNPTCB{}
		}, []string{"ATT-012 snp.measurement", "ATT-012 snp.hostData", "ATT-012 snp.idKeyDigest", "ATT-012 snp.authorKeyDigest", "ATT-012 snp.familyID", "ATT-012 snp.imageID",
			"ATT-032 snp.product", "ATT-034 snp.chipID"}},
		{"microcode", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.ReportedTCB.Microcode = 218 }, []string{"ATT-032 snp.reportedTCB"}},
		{"microcode higher, SNP lower", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) {
			c.ReportedTCB.Microcode, c.ReportedTCB.SNP = 255, 23
		}, []string{"ATT-032 snp.reportedTCB"}},
		{"bootloader at launch", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.LaunchTCB.Bootloader = 3 }, []string{"ATT-032 snp.launchTCB"}},
		{"other product", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.Product = "Genoa" }, []string{"ATT-032 snp.product"}},
		{"product not known", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.Product = "" }, []string{"ATT-032 snp.product"}},
		{"firmware", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.CommittedFirmware.Build = 28 }, []string{"ATT-032 snp.committedFirmware"}},
		{"SMT by policy", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.Policy.SMT = true }, []string{"ATT-034 snp.smt"}},
		{"SMT on the machine", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.Platform.SMT = true }, []string{"ATT-034 snp.smt"}},
		{"SMT allowed", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) { c.Policy.SMT, p.AllowSMT = true, true }, nil},
		{"provisional", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.ProvisionalFirmware = true }, []string{"ATT-034 snp.provisionalFirmware"}},
		{"provisional allowed", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
			c.ProvisionalFirmware, p.AllowProvisionalFirmware = true, true
		}, nil},
		{"other chip", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.ChipID[0]++ }, []string{"ATT-034 snp.chipID"}},
		{"masked chip, even if zeros are listed", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
			c.ChipID, p.ChipIDs = make(Hex, 64), []Hex{make(Hex, 64)}
		}, []string{"ATT-034 snp.chipID"}},
		{"any chip", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) { c.ChipID[0], p.ChipIDs = 0, nil }, nil},
		{"zero rules", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) { *p = SNPPlatform{} }, []string{"ATT-032 snp.product"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims, p := snpGuest(), snpPolicy()
			c.change(claims.SNP, p.Package.SNP, p.Platform.SNP)
			if got := failedSteps(p.Check(claims)); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestCheckSNPDenies checks that nothing is accepted by what is absent.
func TestCheckSNPDenies(t *testing.T) {
	claims, p := snpGuest(), snpPolicy()
	if got, want := failedSteps(Policy{}.Check(claims)), []string{"ATT-029 snp", "ATT-032 snp.product"}; !reflect.DeepEqual(got, want) {
		t.Errorf("the zero policy: got %v, want %v", got, want)
	}
	other := Package{SGX: &SGXReference{AllowAny: true}, TDX: &TDXReference{AllowAny: true}}
	if got, want := failedSteps(Policy{Package: other, Platform: p.Platform}.Check(claims)), []string{"ATT-029 snp"}; !reflect.DeepEqual(got, want) {
		t.Errorf("a package of other TEEs: got %v, want %v", got, want)
	}
	if got := failedSteps(p.Check(Claims{TEE: SNP})); len(got) < 10 {
		t.Errorf("no claims: got %v, want every constraint to fail", got)
	}
	claims.Debug, claims.TCB.RevocationChecked = true, false
	if got, want := failedSteps(p.Check(claims)), []string{"ATT-013 snp.debug", "ATT-018 tcb.revocationChecked"}; !reflect.DeepEqual(got, want) {
		t.Errorf("debug without a CRL: got %v, want %v", got, want)
	}
}

func TestSNPFloorWords(t *testing.T) {
	claims, p := snpGuest(), snpPolicy()
	claims.SNP.ReportedTCB = SNPTCB{Bootloader: 3, TEE: 9, SNP: 24, Microcode: 69}
	p.Platform.SNP.MinTCB["Milan"] = SNPTCB{FMC: 1, Bootloader: 4, SNP: 24, Microcode: 88}
	for _, s := range p.Check(claims) {
		if s.Field != "snp.reportedTCB" {
			continue
		}
		if want := "FMC is 0, the floor is 1; bootloader is 3, the floor is 4; microcode is 69, the floor is 88"; s.Got != want {
			t.Errorf("got %q, want %q", s.Got, want)
		}
		if s.Fix.Who != HostOwner || s.Want != "Milan at fmc 1, bootloader 4, tee 0, snp 24, microcode 88 or higher" {
			t.Errorf("got %+v", s)
		}
		return
	}
	t.Error("no step compares the reported TCB")
}

func TestSNPFirmwareText(t *testing.T) {
	for text, want := range map[string]string{
		"1.55": "1.55.0", "1.55.29": "1.55.29", "0.0": "0.0.0", "255.255.255": "255.255.255",
		"": "", "1": "", "1.55.29.1": "", "1.256": "", "01.55": "", "1.-5": "", "1.+5": "", "1. 5": "", "a.b": "", "1.55.": "",
	} {
		var v SNPFirmware
		err := v.UnmarshalText([]byte(text))
		if (err == nil) != (want != "") || err == nil && v.String() != want {
			t.Errorf("%q: got %v, %v, want %q", text, v, err, want)
		}
	}
	order := []SNPFirmware{{0, 255, 255}, {1, 0, 0}, {1, 0, 9}, {1, 1, 0}, {2, 0, 0}}
	for i := range order {
		for j := range order {
			if got := order[i].Less(order[j]); got != (i < j) {
				t.Errorf("%v less than %v: got %t", order[i], order[j], got)
			}
		}
	}
}

// TestSNPRulesKeepEmptyLists checks that an empty list survives storage: left out
// it would turn into "not compared".
func TestSNPRulesKeepEmptyLists(t *testing.T) {
	raw, err := json.Marshal(struct {
		R SNPReference
		P SNPPlatform
	}{SNPReference{HostData: []Hex{}}, SNPPlatform{ChipIDs: []Hex{}, MinTCB: map[string]SNPTCB{}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"hostData":[]`, `"chipIDs":[]`, `"minTCB":{}`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("got %s, want %s in it", raw, want)
		}
	}
	if strings.Contains(string(raw), "measurement") {
		t.Error(fmt.Sprint("what was not given is there: ", string(raw)))
	}
}
