package attest

import (
	"reflect"
	"strings"
	"testing"
)

// ruleCheck is one change to claims and reference values that fit, and the steps
// that must fail then. Each rule has a case that holds and one that does not.
type ruleCheck[C, R any] struct {
	name   string
	change func(*C, *R)
	want   []string
}

var sgxRules = []ruleCheck[SGXClaims, SGXReference]{
	{"nothing", func(*SGXClaims, *SGXReference) {}, nil},
	{"config ID", func(_ *SGXClaims, r *SGXReference) { r.ConfigID = []Hex{fill(9, 64), fill(3, 64)} }, nil},
	{"other config ID", func(_ *SGXClaims, r *SGXReference) { r.ConfigID = []Hex{fill(4, 64)} }, []string{"ATT-012 sgx.configID"}},
	{"no config ID accepted", func(_ *SGXClaims, r *SGXReference) { r.ConfigID = []Hex{} }, []string{"ATT-012 sgx.configID"}},
	{"config SVN", func(_ *SGXClaims, r *SGXReference) { r.MinConfigSVN = ptr(7) }, nil},
	{"low config SVN", func(_ *SGXClaims, r *SGXReference) { r.MinConfigSVN = ptr(8) }, []string{"ATT-031 sgx.configSVN"}},
	{"family", func(_ *SGXClaims, r *SGXReference) { r.FamilyID = []Hex{fill(5, 16)} }, nil},
	{"other family", func(c *SGXClaims, r *SGXReference) { c.FamilyID, r.FamilyID = fill(6, 16), []Hex{fill(5, 16)} }, []string{"ATT-012 sgx.familyID"}},
	{"extended product", func(_ *SGXClaims, r *SGXReference) { r.ExtendedProductID = []Hex{fill(6, 16)} }, nil},
	{"other extended product", func(_ *SGXClaims, r *SGXReference) { r.ExtendedProductID = []Hex{fill(5, 16)} }, []string{"ATT-012 sgx.extendedProductID"}},
	{"KSS", func(c *SGXClaims, r *SGXReference) { c.Attributes[0] |= sgxKSS; r.RequireKSS = true }, nil},
	{"KSS missing", func(_ *SGXClaims, r *SGXReference) { r.RequireKSS = true }, []string{"ATT-037 sgx.kss"}},
	{"provisioning key", func(c *SGXClaims, _ *SGXReference) { c.Attributes[0] |= 0x10 }, []string{"ATT-037 sgx.keyAttributes"}},
	{"launch key", func(c *SGXClaims, _ *SGXReference) { c.Attributes[0] |= 0x20 }, []string{"ATT-037 sgx.keyAttributes"}},
	{"key attributes allowed", func(c *SGXClaims, r *SGXReference) { c.Attributes[0] |= 0x30; r.AllowKeyAttributes = true }, nil},
	{"any measurement allows no key attributes", func(c *SGXClaims, r *SGXReference) {
		c.Attributes[0] |= 0x10
		*r = SGXReference{AllowAny: true}
	}, []string{"ATT-037 sgx.keyAttributes"}},
	{"attributes", func(_ *SGXClaims, r *SGXReference) {
		r.Attributes = &Bits{Value: hexOf("0500000000000000e700000000000000")}
	}, nil},
	{"attributes under a mask", func(_ *SGXClaims, r *SGXReference) {
		r.Attributes = &Bits{hexOf("04000000000000000300000000000000"), hexOf("04000000000000000300000000000000")}
	}, nil},
	{"other attributes", func(_ *SGXClaims, r *SGXReference) {
		r.Attributes = &Bits{Value: hexOf("0500000000000000e600000000000000")}
	}, []string{"ATT-037 sgx.attributes"}},
	{"value outside of the mask", func(_ *SGXClaims, r *SGXReference) {
		r.Attributes = &Bits{hexOf("05000000000000000300000000000000"), hexOf("04000000000000000300000000000000")}
	}, []string{"ATT-037 sgx.attributes"}},
	{"attributes decide on the provisioning key", func(c *SGXClaims, r *SGXReference) {
		c.Attributes[0] = 0x15
		r.Attributes = &Bits{hexOf("15000000000000000000000000000000"), hexOf("ff000000000000000000000000000000")}
	}, nil},
	{"short attributes", func(_ *SGXClaims, r *SGXReference) { r.Attributes = &Bits{hexOf("05"), hexOf("05")} }, []string{"ATT-037 sgx.attributes"}},
	{"empty mask", func(_ *SGXClaims, r *SGXReference) { r.MiscSelect = &Bits{Value: hexOf("00000000"), Mask: Hex{}} }, []string{"ATT-037 sgx.miscSelect"}},
	{"misc select", func(_ *SGXClaims, r *SGXReference) { r.MiscSelect = &Bits{Value: hexOf("00000000")} }, nil},
	{"other misc select", func(c *SGXClaims, r *SGXReference) {
		c.MiscSelect = hexOf("01000000")
		r.MiscSelect = &Bits{Value: hexOf("00000000")}
	}, []string{"ATT-037 sgx.miscSelect"}},
}

func hexOf(s string) Hex {
	var h Hex
	if err := h.UnmarshalText([]byte(s)); err != nil {
		panic(err)
	}
	return h
}

func TestCheckSGXRules(t *testing.T) {
	for _, c := range sgxRules {
		t.Run(c.name, func(t *testing.T) {
			claims := SGXClaims{UniqueID: fill(1, 32), ConfigID: fill(3, 64), ConfigSVN: 7, FamilyID: fill(5, 16), ExtendedProdID: fill(6, 16),
				MiscSelect: hexOf("00000000"), Attributes: hexOf("0500000000000000e700000000000000")}
			r := SGXReference{UniqueID: one}
			c.change(&claims, &r)
			steps := Policy{Package: Package{SGX: &r}, PackageName: "web"}.packageSteps(Claims{TEE: SGX, SGX: &claims})
			if got := failed(steps); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			complete(t, steps, "packages.web")
		})
	}
}

func yes() *bool { b := true; return &b }
func no() *bool  { b := false; return &b }

var tdxRules = []ruleCheck[Claims, TDXReference]{
	{"nothing", func(*Claims, *TDXReference) {}, nil},
	{"signer of the module", func(_ *Claims, r *TDXReference) { r.MRSignerSEAM = []Hex{fill(10, 48)} }, nil},
	{"other signer of the module", func(_ *Claims, r *TDXReference) { r.MRSignerSEAM = []Hex{fill(0, 48)} }, []string{"ATT-012 tdx.mrSignerSEAM"}},
	{"no service TD", func(c *Claims, _ *TDXReference) { c.TDX.MRServiceTD = make(Hex, 48) }, nil},
	{"service TD", func(c *Claims, _ *TDXReference) { c.TDX.MRServiceTD = fill(11, 48) }, []string{"ATT-012 tdx.mrServiceTD"}},
	{"service TD named", func(c *Claims, r *TDXReference) { c.TDX.MRServiceTD, r.MRServiceTD = fill(11, 48), []Hex{fill(11, 48)} }, nil},
	{"other service TD", func(c *Claims, r *TDXReference) { c.TDX.MRServiceTD, r.MRServiceTD = fill(12, 48), []Hex{fill(11, 48)} }, []string{"ATT-012 tdx.mrServiceTD"}},
	{"service TD in version 4", func(_ *Claims, r *TDXReference) { r.MRServiceTD = []Hex{fill(11, 48)} }, []string{"ATT-012 tdx.mrServiceTD"}},
	{"no service TD accepted", func(c *Claims, r *TDXReference) { c.TDX.MRServiceTD, r.MRServiceTD = make(Hex, 48), []Hex{} }, []string{"ATT-012 tdx.mrServiceTD"}},
	{"service TD of any measurement", func(c *Claims, r *TDXReference) { c.TDX.MRServiceTD, *r = fill(11, 48), TDXReference{AllowAny: true} }, nil},
	{"SEPT_VE", func(c *Claims, _ *TDXReference) { c.TDX.TDAttributes = make(Hex, 8) }, []string{"ATT-037 tdx.septVEDisable"}},
	{"SEPT_VE allowed", func(c *Claims, r *TDXReference) { c.TDX.TDAttributes, r.AllowSEPTVE = make(Hex, 8), true }, nil},
	{"SEPT_VE, any measurement", func(c *Claims, r *TDXReference) { c.TDX.TDAttributes, *r = make(Hex, 8), TDXReference{AllowAny: true} }, []string{"ATT-037 tdx.septVEDisable"}},
	{"attributes decide on SEPT_VE", func(c *Claims, r *TDXReference) {
		c.TDX.TDAttributes, r.TDAttributes = make(Hex, 8), &Bits{Value: make(Hex, 8)}
	}, nil},
	{"attributes beside SEPT_VE", func(c *Claims, r *TDXReference) {
		c.TDX.TDAttributes, r.TDAttributes = make(Hex, 8), &Bits{make(Hex, 8), hexOf("000000e000000000")}
	}, []string{"ATT-037 tdx.septVEDisable"}},
	{"other attributes", func(_ *Claims, r *TDXReference) { r.TDAttributes = &Bits{Value: hexOf("0000005000000000")} }, []string{"ATT-037 tdx.tdAttributes"}},
	{"XFAM", func(_ *Claims, r *TDXReference) { r.XFAM = &Bits{hexOf("e702000000000000"), hexOf("ffff000000000000")} }, nil},
	{"other XFAM", func(_ *Claims, r *TDXReference) { r.XFAM = &Bits{Value: hexOf("e702000000000000")} }, []string{"ATT-037 tdx.xfam"}},
	{"no PKS", func(_ *Claims, r *TDXReference) { r.PKS, r.KeyLocker, r.Perfmon = no(), no(), no() }, nil},
	{"PKS, key locker, perfmon wanted", func(_ *Claims, r *TDXReference) { r.PKS, r.KeyLocker, r.Perfmon = yes(), yes(), yes() },
		[]string{"ATT-037 tdx.pks", "ATT-037 tdx.keyLocker", "ATT-037 tdx.perfmon"}},
	{"PKS, key locker, perfmon on", func(c *Claims, r *TDXReference) {
		c.TDX.TDAttributes = hexOf("000000d000000080")
		r.PKS, r.KeyLocker, r.Perfmon = yes(), yes(), yes()
	}, nil},
	{"PKS, key locker, perfmon refused", func(c *Claims, r *TDXReference) {
		c.TDX.TDAttributes = hexOf("000000d000000080")
		r.PKS, r.KeyLocker, r.Perfmon = no(), no(), no()
	}, []string{"ATT-037 tdx.pks", "ATT-037 tdx.keyLocker", "ATT-037 tdx.perfmon"}},
	{"event", func(_ *Claims, r *TDXReference) { r.Events = wantEvents("kernel", 21) }, nil},
	{"one of two events", func(_ *Claims, r *TDXReference) { r.Events = wantEvents("kernel", 9, 21) }, nil},
	{"other digest", func(_ *Claims, r *TDXReference) { r.Events = wantEvents("kernel", 22) }, []string{"ATT-012 events.rtmr1.kernel"}},
	{"no digest", func(_ *Claims, r *TDXReference) { r.Events = wantEvents("kernel") }, []string{"ATT-012 events.rtmr1.kernel"}},
	{"no such event", func(_ *Claims, r *TDXReference) { r.Events = wantEvents("shim", 21) }, []string{"ATT-036 events.rtmr1.shim"}},
	{"event of another register", func(c *Claims, r *TDXReference) { c.Events[0].Register, r.Events = "rtmr2", wantEvents("kernel", 21) }, []string{"ATT-036 events.rtmr1.kernel"}},
	{"second event with another digest", func(c *Claims, r *TDXReference) {
		c.Events = append(c.Events, Event{"rtmr1", "EV_IPL", fill(23, 48), "kernel", false})
		r.Events = wantEvents("kernel", 21)
	}, []string{"ATT-012 events.rtmr1.kernel"}},
	{"no event log", func(c *Claims, r *TDXReference) { c.Events, r.Events = nil, wantEvents("kernel", 21) }, []string{"ATT-036 events.rtmr1.kernel"}},
	{"only these events", func(_ *Claims, r *TDXReference) {
		r.EventsOnly, r.Events = true, map[string][]EventReference{"rtmr1": {{"kernel", []Hex{fill(21, 48)}}, {"command line", []Hex{fill(22, 48)}}}}
	}, nil},
	{"a further event", func(_ *Claims, r *TDXReference) { r.EventsOnly, r.Events = true, wantEvents("kernel", 21) }, []string{"ATT-036 events.rtmr1"}},
	{"events of no register", func(_ *Claims, r *TDXReference) { r.Events = map[string][]EventReference{} }, []string{"ATT-029 events"}},
	{"no events of a register", func(_ *Claims, r *TDXReference) {
		r.EventsOnly, r.Events = true, map[string][]EventReference{"rtmr3": {}}
	}, []string{"ATT-029 events.rtmr3"}},
	{"no events but these, no log", func(c *Claims, r *TDXReference) {
		c.Events, r.EventsOnly, r.Events = nil, true, wantEvents("kernel", 21)
	}, []string{"ATT-036 events.rtmr1.kernel", "ATT-036 events.rtmr1"}},
}

func wantEvents(name string, digests ...byte) map[string][]EventReference {
	r := EventReference{Name: name}
	for _, d := range digests {
		r.Digest = append(r.Digest, fill(d, 48))
	}
	return map[string][]EventReference{"rtmr1": {r}}
}

func TestCheckTDXRules(t *testing.T) {
	for _, c := range tdxRules {
		t.Run(c.name, func(t *testing.T) {
			claims := tdxClaims()
			claims.TDX.MRSignerSEAM, claims.TDX.XFAM = fill(10, 48), hexOf("e702060000000000")
			claims.Events = []Event{{"rtmr1", "EV_IPL", fill(21, 48), "kernel", false}, {"rtmr1", "EV_IPL", fill(22, 48), "command line", false}, {"rtmr2", "EV_IPL", fill(24, 48), "", false}}
			r := TDXReference{MRTD: []Hex{fill(1, 48)}}
			c.change(&claims, &r)
			steps := Policy{Package: Package{TDX: &r}, PackageName: "web"}.packageSteps(claims)
			if got := failed(steps); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			complete(t, steps, "packages.web")
		})
	}
}

// TestHostileEventNames checks that a log cannot make a step unreadable.
func TestHostileEventNames(t *testing.T) {
	c := tdxClaims()
	c.Events = []Event{{"rtmr1", "", nil, strings.Repeat("\xff\x00é", 100), false}}
	r := TDXReference{MRTD: []Hex{fill(1, 48)}, EventsOnly: true, Events: wantEvents("kernel", 21)}
	for _, s := range (Policy{Package: Package{TDX: &r}}).packageSteps(c) {
		if len(s.Got) > 300 || strings.ToValidUTF8(s.Got, "") != s.Got {
			t.Errorf("got %q, want a short text", s.Got)
		}
	}
}
