package dcap

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
)

// status checks that the endorsements are of this platform and these enclaves
// and, once every signature has held, reads the TCB status from them.
//
// TEE_TCB_SVN, under which a guest was started, gives the status. A TD 1.5 body
// has TEE_TCB_SVN_2 beside it, which changes when the TDX module is updated
// under a running guest: it must be at a level as well, and a revoked one makes
// the status Revoked, but none makes it better (Intel TDX DCAP Quoting Library
// API, A.3.3; Intel's quote verification library, 4.1.2.5.20, which says "TD
// relaunch advised" where the guest alone is old: that is no status of the PCS,
// and TCBGap.Relaunch here).
func (r *run) status(c *attest.Claims) {
	known := r.samePlatform()
	known = r.qeIdentity() && known
	module, fits := r.module(c)
	if !r.signed || !known || !fits {
		return
	}
	var teeSVN []byte
	svn := "PCESVN " + fmt.Sprint(r.chain.platform.pcesvn) + ", components " + fmt.Sprintf("%x", r.chain.platform.svn)
	if c.TDX != nil {
		teeSVN = c.TDX.TEETCBSVN
		svn += ", TDX " + c.TDX.TEETCBSVN.String()
	}
	qeSVN := sgxReport(r.quote.qeReport).securityVersion()
	platform := r.col.tcb.platformLevel(&r.chain.platform, teeSVN)
	ok := r.level("tcb.level", svn, attest.KindTCBInfo, platform)
	qe := enclaveLevel(r.col.qe.Levels, qeSVN)
	ok = r.level("tcb.qeLevel", fmt.Sprint("ISVSVN ", qeSVN), attest.KindQEIdentity, qe) && ok
	var mod *level
	if module != nil && teeSVN[1] > 0 {
		mod = enclaveLevel(module.Levels, uint16(teeSVN[0]))
		ok = r.level("tcb.moduleLevel", fmt.Sprint("ISVSVN ", teeSVN[0]), attest.KindTCBInfo, mod) && ok
	}
	t := &c.TCB
	t.Platform, t.QE, t.Module = statusOf(platform), statusOf(qe), statusOf(mod)
	t.Advisories = union(platform, qe, mod)
	t.LevelDate = levelDate(platform, mod)
	if !ok || t.Platform != attest.UpToDate || t.QE != attest.UpToDate || mod != nil && t.Module != attest.UpToDate {
		t.Gaps = r.gaps(c.TDX, platform, qe, mod, module)
	}
	if !ok {
		return
	}
	now, held := r.current(c.TDX)
	if !held {
		return
	}
	t.Status = converge(t.Platform, t.QE)
	if mod != nil {
		t.Status = converge(t.Status, t.Module)
	}
	if statusOf(now) == attest.Revoked {
		t.Status = attest.Revoked
	}
}

// current returns the worst level of the TCB that a guest runs on now, as far as
// its body says; false if the vendor lists none that it meets.
func (r *run) current(t *attest.TDXClaims) (*level, bool) {
	if t == nil || len(t.TEETCBSVN2) == 0 {
		return nil, true
	}
	svn := t.TEETCBSVN2
	worst := r.col.tcb.platformLevel(&r.chain.platform, svn)
	if svn[1] > 0 {
		var mod *level
		if m := r.col.tcb.module(svn); m != nil {
			mod = enclaveLevel(m.Levels, uint16(svn[0]))
		}
		if worst != nil && (mod == nil || rankOf(mod.Status) > rankOf(worst.Status)) {
			worst = mod
		}
	}
	return worst, r.level("tcb.currentLevel", "TDX "+svn.String(), attest.KindTCBInfo, worst)
}

func statusOf(l *level) attest.TCBStatus {
	if l == nil {
		return ""
	}
	return l.Status
}

func (r *run) level(field, svn, source string, l *level) bool {
	s := attest.Step{Code: attest.CodeTCBLevel, Field: field, Want: "a TCB level that the platform meets", Got: svn + ": none", Source: source,
		Fix: attest.Fix{Who: attest.HostOwner, How: "update BIOS, microcode and the vendor's modules: the vendor lists no level this low"}}
	if l != nil {
		s.Got = svn + ": " + string(l.Status) + " since " + l.Date
	}
	return r.check(s, l != nil)
}

// samePlatform checks that the TCB info is of the platform that signed.
func (r *run) samePlatform() bool {
	if r.chain == nil || r.col.tcb == nil {
		return false
	}
	p, t := &r.chain.platform, r.col.tcb
	ok := r.check(attest.Step{Code: attest.CodeOtherPlatform, Field: "tcbInfo.fmspc", Want: p.fmspc.String(), Got: t.FMSPC.String(),
		Source: attest.KindTCBInfo, Fix: fixFetch}, bytes.Equal(p.fmspc, t.FMSPC))
	return r.check(attest.Step{Code: attest.CodeOtherPlatform, Field: "tcbInfo.pceID", Want: p.pceID.String(), Got: t.PCEID.String(),
		Source: attest.KindTCBInfo, Fix: fixFetch}, bytes.Equal(p.pceID, t.PCEID)) && ok
}

// qeIdentity checks that the quoting enclave is the vendor's.
func (r *run) qeIdentity() bool {
	if r.col.qe == nil {
		return false
	}
	s := attest.Step{Code: attest.CodeQEIdentity, Field: "qe.identity", Want: "the vendor's quoting enclave", Got: "holds", Source: attest.KindQEIdentity, Fix: fixHost}
	field, want, got := r.col.qe.mismatch(r.quote.qeReport)
	if field != "" {
		s.Field, s.Want, s.Got = field, want, got
	}
	return r.check(s, field == "")
}

// module checks that the TDX module is the vendor's and returns its identity;
// SGX has none, which fits.
func (r *run) module(c *attest.Claims) (*moduleIdentity, bool) {
	if c.TDX == nil {
		return nil, true
	}
	if r.col.tcb == nil {
		return nil, false
	}
	t := c.TDX
	s := attest.Step{Code: attest.CodeModule, Field: "tdx.module", Source: attest.KindTCBInfo, Fix: fixHost,
		Want: fmt.Sprintf("a module of version %d that the vendor lists", t.TEETCBSVN[1]),
		Got:  fmt.Sprintf("TEE_TCB_SVN %04x", binary.BigEndian.Uint16(t.TEETCBSVN))}
	m := r.col.tcb.module(t.TEETCBSVN)
	switch {
	case m == nil:
		s.Got += ": not listed"
		return nil, r.check(s, false)
	case !bytes.Equal(t.MRSignerSEAM, m.Signer):
		s.Field, s.Want, s.Got = "tdx.mrSignerSEAM", m.Signer.String(), t.MRSignerSEAM.String()
		return nil, r.check(s, false)
	case !masked(t.SEAMAttrs, m.Mask, m.Attributes):
		s.Field, s.Want, s.Got = "tdx.seamAttributes", m.Attributes.String()+" under "+m.Mask.String(), t.SEAMAttrs.String()
		return nil, r.check(s, false)
	}
	return m, r.check(s, true)
}
