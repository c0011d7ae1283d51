package attest

import (
	"bytes"
	"fmt"
)

// Bits of TD_ATTRIBUTES (Intel TDX Module ABI specification, ATTRIBUTES), each
// in the byte that holds it.
const (
	tdSEPTVEDisable = 0x10 // byte 3: bit 28
	tdMigratable    = 0x20 // byte 3: bit 29
	tdPKS           = 0x40 // byte 3: bit 30
	tdKeyLocker     = 0x80 // byte 3: bit 31
	tdPerfmon       = 0x80 // byte 7: bit 63
)

var fixGuest = Fix{ServiceOwner, "launch the guest with the attributes that the package demands"}

// tdxBit returns whether a bit of TD_ATTRIBUTES is set, and whether there are
// attributes.
func tdxBit(c Claims, index int, bit byte) (set, present bool) {
	if c.TDX == nil || len(c.TDX.TDAttributes) <= index {
		return false, false
	}
	return c.TDX.TDAttributes[index]&bit != 0, true
}

// migratable refuses guests that the host may export: it chooses the migration
// TD that gets the guest's memory, and quotes of version 4 do not name that one.
func (k *check) migratable(c Claims, allowed bool) {
	if c.TDX == nil {
		return
	}
	got, _ := tdxBit(c, 3, tdMigratable)
	s := Step{Code: CodeDebug, Field: "tdx.migratable", OK: !got || allowed, Want: "false", Got: fmt.Sprint(got),
		Fix: Fix{ServiceOwner, "launch the guest without MIGRATABLE: whom the host lets migrate a guest reads its memory"}}
	if allowed {
		s.Want = "any (allowDebug)"
	}
	k.add(s)
}

// tdx judges the software of a trust domain.
func (k *check) tdx(c Claims, r *TDXReference) {
	var got TDXClaims
	if c.TDX != nil {
		got = *c.TDX
	}
	switch {
	case r.AllowAny && r.MRTD == nil:
		k.any("tdx.mrtd", got.MRTD)
	case r.MRTD == nil:
		k.incomplete("tdx.mrtd", "at least one accepted MRTD")
	}
	k.oneOf("tdx.mrtd", r.MRTD, got.MRTD)
	k.oneOf("tdx.rtmr0", r.RTMR0, got.RTMR0)
	k.oneOf("tdx.rtmr1", r.RTMR1, got.RTMR1)
	k.oneOf("tdx.rtmr2", r.RTMR2, got.RTMR2)
	k.oneOf("tdx.rtmr3", r.RTMR3, got.RTMR3)
	k.oneOf("tdx.mrConfigID", r.MRConfigID, got.MRConfigID)
	k.oneOf("tdx.mrOwner", r.MROwner, got.MROwner)
	k.oneOf("tdx.mrOwnerConfig", r.MROwnerConfig, got.MROwnerConfig)
	k.oneOf("tdx.mrSEAM", r.MRSEAM, got.MRSEAM)
	k.oneOf("tdx.mrSignerSEAM", r.MRSignerSEAM, got.MRSignerSEAM)
	k.serviceTD(got, r)
	k.events(c, r.Events, r.EventsOnly)
	k.tdxAttributes(c, r)
}

// serviceTD refuses a service TD that nobody asked for. Quotes of version 4 do
// not name one.
func (k *check) serviceTD(got TDXClaims, r *TDXReference) {
	if r.MRServiceTD != nil {
		k.oneOf("tdx.mrServiceTD", r.MRServiceTD, got.MRServiceTD)
		return
	}
	if len(got.MRServiceTD) == 0 {
		return
	}
	none := len(bytes.Trim(got.MRServiceTD, "\x00")) == 0
	s := Step{Code: CodeMeasurement, Field: "tdx.mrServiceTD", OK: none || r.AllowAny, Want: "none", Got: "none",
		Fix: Fix{ManifestAuthor, "name the service TD in mrServiceTD, if it may act for the guest"}}
	if !none {
		s.Got = got.MRServiceTD.String()
	}
	if r.AllowAny {
		s.Want = "any (allowAnyMeasurement)"
	}
	k.add(s)
}

func (k *check) tdxAttributes(c Claims, r *TDXReference) {
	if !r.TDAttributes.covers(3, tdSEPTVEDisable) {
		s := Step{Code: CodeAttributes, Field: "tdx.septVEDisable", Fix: Fix{ServiceOwner, "launch the guest with SEPT_VE_DISABLE, or have the manifest's author allow SEPT_VE"}}
		set, present := tdxBit(c, 3, tdSEPTVEDisable)
		k.switched(s, true, set, present)
		if last := &k.steps[len(k.steps)-1]; r.AllowSEPTVE {
			last.OK, last.Want, last.Fix = true, "any (allowSEPTVE)", Fix{}
		}
	}
	for _, a := range [...]struct {
		field string
		want  *bool
		index int
		bit   byte
	}{{"tdx.pks", r.PKS, 3, tdPKS}, {"tdx.keyLocker", r.KeyLocker, 3, tdKeyLocker}, {"tdx.perfmon", r.Perfmon, 7, tdPerfmon}} {
		if a.want != nil {
			set, present := tdxBit(c, a.index, a.bit)
			k.switched(Step{Code: CodeAttributes, Field: a.field, Fix: fixGuest}, *a.want, set, present)
		}
	}
	if r.TDAttributes == nil && r.XFAM == nil {
		return
	}
	var got TDXClaims
	if c.TDX != nil {
		got = *c.TDX
	}
	k.bits(CodeAttributes, "tdx.tdAttributes", r.TDAttributes, got.TDAttributes, fixGuest)
	k.bits(CodeAttributes, "tdx.xfam", r.XFAM, got.XFAM, fixGuest)
}
