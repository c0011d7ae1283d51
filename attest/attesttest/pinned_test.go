package attesttest

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
)

// pinned returns a package that names everything that claims hold.
func pinned(c attest.Claims) attest.Package {
	one := func(h attest.Hex) []attest.Hex { return []attest.Hex{append(attest.Hex(nil), h...)} }
	exact := func(h attest.Hex) *attest.Bits { return &attest.Bits{Value: append(attest.Hex(nil), h...)} }
	p := attest.Package{AllowDebug: c.Debug}
	switch {
	case c.SGX != nil:
		s := c.SGX
		p.SGX = &attest.SGXReference{UniqueID: one(s.UniqueID), SignerID: one(s.SignerID)[0], ProductID: &s.ProductID, MinSecurityVersion: &s.SecurityVersion,
			ConfigID: one(s.ConfigID), MinConfigSVN: &s.ConfigSVN, FamilyID: one(s.FamilyID), ExtendedProductID: one(s.ExtendedProdID),
			Attributes: exact(s.Attributes), MiscSelect: exact(s.MiscSelect)}
	case c.TDX != nil:
		t := c.TDX
		p.TDX = &attest.TDXReference{MRTD: one(t.MRTD), RTMR0: one(t.RTMR0), RTMR1: one(t.RTMR1), RTMR2: one(t.RTMR2), RTMR3: one(t.RTMR3), MRConfigID: one(t.MRConfigID),
			MROwner: one(t.MROwner), MROwnerConfig: one(t.MROwnerConfig), MRSEAM: one(t.MRSEAM), MRSignerSEAM: one(t.MRSignerSEAM),
			TDAttributes: exact(t.TDAttributes), XFAM: exact(t.XFAM)}
		if t.MRServiceTD != nil {
			p.TDX.MRServiceTD = one(t.MRServiceTD)
		}
	case c.SNP != nil:
		s := c.SNP
		p.SNP = &attest.SNPReference{Measurement: one(s.Measurement), HostData: one(s.HostData), IDKeyDigest: one(s.IDKeyDigest), AuthorKeyDigest: one(s.AuthorKeyDigest),
			FamilyID: one(s.FamilyID), ImageID: one(s.ImageID), ReportID: one(s.ReportID), ReportIDMA: one(s.ReportIDMA), VMPL: &s.VMPL, MinGuestSVN: &s.GuestSVN,
			GuestPolicy: exact(s.Policy.Bits), AllowMigration: s.Policy.MigrateMA, AllowCXL: s.Policy.CXL}
	}
	return p
}

// values are the byte strings in a reference, by the name of their field.
func values(reference reflect.Value) map[string]attest.Hex {
	all := map[string]attest.Hex{}
	for i := range reference.NumField() {
		name, _, _ := strings.Cut(reference.Type().Field(i).Tag.Get("json"), ",")
		switch v := reference.Field(i).Interface().(type) {
		case attest.Hex:
			all[name] = v
		case []attest.Hex:
			if len(v) > 0 {
				all[name] = v[0]
			}
		case *attest.Bits:
			if v != nil {
				all[name] = v.Value
			}
		}
	}
	return all
}

// TestPinned judges real evidence by all that it holds, and then with one bit of
// one reference value changed: that check fails, and no other.
func TestPinned(t *testing.T) {
	fields := map[string]bool{}
	for _, s := range All(t) {
		c := explain(t, s, evidence.Options{}).Claims
		if !s.Genuine || c.SGX == nil && c.TDX == nil && c.SNP == nil || c.TPM != nil {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			p := pinned(c)
			rules := &attest.DCAPPlatform{AcceptedTCBStatuses: []attest.TCBStatus{c.TCB.Status}}
			judge := func() []string {
				v := explain(t, s, evidence.Options{Package: &p, Platform: attest.Platform{SGX: rules, TDX: rules, SNP: evidence.AnySNPPlatform()}})
				var steps []string
				for _, f := range v.Failed() {
					if f.Code != attest.CodeTCBStatus && f.Code != attest.CodeTCBLevel {
						steps = append(steps, f.Field)
					}
				}
				return steps
			}
			if got := judge(); got != nil {
				t.Fatalf("by all that it holds: got %v refused", got)
			}
			for _, r := range []any{p.SGX, p.TDX, p.SNP} {
				if reflect.ValueOf(r).IsNil() {
					continue
				}
				for name, h := range values(reflect.ValueOf(r).Elem()) {
					fields[fmt.Sprintf("%T.%s", r, name)] = true
					h[len(h)-1] ^= 1
					if got := judge(); len(got) != 1 {
						t.Errorf("%s changed: got %v refused, want that alone", name, got)
					}
					h[len(h)-1] ^= 1
				}
			}
		})
	}
	if len(fields) < 28 {
		t.Errorf("only %d reference values were changed: %v", len(fields), fields)
	}
}
