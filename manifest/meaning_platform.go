package manifest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

func (c *checker) platform(m *jsonpos.Member, p *path) { c.rules(m.Value, p, c.m.Platforms[m.Key]) }

// rules checks a platform, in a manifest or policy file.
func (w *walker) rules(n *jsonpos.Node, p *path, platform attest.Platform) {
	for _, tee := range []struct {
		key   string
		rules *attest.DCAPPlatform
	}{{"sgx", platform.SGX}, {"tdx", platform.TDX}, {"sim", platform.Sim}} {
		if v := n.Get(tee.key); tee.rules != nil && v != nil && !w.bad[v] {
			w.dcapRules(v, p.member(tee.key), tee.rules)
		}
	}
	if v := n.Get("snp"); platform.SNP != nil && v != nil && !w.bad[v] {
		w.snpMachines(v, p.member("snp"), platform.SNP)
	}
	if v := n.Get("endorsements"); v != nil && !w.bad[v] {
		w.ages(v, p.member("endorsements"), platform.Endorsements)
	}
}

// ages checks how old endorsements may be.
func (w *walker) ages(n *jsonpos.Node, p *path, rules attest.EndorsementRules) {
	w.age(n, p, "maxAge", rules.MaxAge)
	kinds := n.Get("maxAgeByKind")
	if kinds == nil || w.bad[kinds] {
		return
	}
	p = p.member("maxAgeByKind")
	w.age(kinds, p, "tcbInfo", rules.MaxAgeByKind.TCBInfo)
	w.age(kinds, p, "qeIdentity", rules.MaxAgeByKind.QEIdentity)
	w.age(kinds, p, "crl", rules.MaxAgeByKind.CRL)
}

func (w *walker) age(n *jsonpos.Node, p *path, key string, limit attest.Duration) {
	w.duration(n, p, key, 24*time.Hour, 8760*time.Hour)
	if age := time.Duration(limit); age >= 24*time.Hour && age < 192*time.Hour {
		w.report(p.member(key), spanOf(n.Get(key)), finding{code: "MAN-044", warning: true,
			message: fmt.Sprintf("%s is %s, but vendors re-issue at times only after 7.4 days; marbles would then be refused", key, short(age)),
			suggest: fmt.Sprintf("write at least 192h, or leave %s out", key)})
	}
}

func (w *walker) dcapRules(n *jsonpos.Node, p *path, r *attest.DCAPPlatform) {
	for i, a := range r.RefusedAdvisories {
		if slices.Contains(r.AcceptedAdvisories, a) || r.Grace != nil && slices.Contains(r.Grace.AcceptedAdvisories, a) {
			w.report(p.member("refusedAdvisories").item(i), spanOf(n.Get("refusedAdvisories").Items[i]), finding{code: "MAN-059", warning: true,
				message: fmt.Sprintf("%s is both accepted and refused: it is refused", a)})
		}
	}
	if g := n.Member("grace"); g != nil && r.Grace != nil && !w.bad[g.Value] && !w.incomplete(g.Value) && !lowersDCAP(r) {
		w.lowersNothing(g, p.member("grace"))
	}
}

func (w *walker) lowersNothing(m *jsonpos.Member, p *path) {
	w.report(p, keySpan(m), finding{code: "MAN-054", warning: true, message: fmt.Sprintf("%s accepts nothing that the rules don't accept already", p), suggest: "remove it, or name a lower floor in it"})
}

func lowersDCAP(r *attest.DCAPPlatform) bool {
	g := r.Grace
	more := func(s attest.TCBStatus) bool {
		return s != attest.UpToDate && !slices.Contains(r.AcceptedTCBStatuses, s)
	}
	open := func(a string) bool { return r.AcceptedAdvisories != nil && !slices.Contains(r.AcceptedAdvisories, a) }
	return slices.ContainsFunc(g.AcceptedTCBStatuses, more) || slices.ContainsFunc(g.AcceptedAdvisories, open) ||
		g.MinTCBEvaluation != nil && *g.MinTCBEvaluation < r.MinTCBEvaluation || !g.MinTCBDate.IsZero() && g.MinTCBDate.Before(r.MinTCBDate)
}

// snpMachines checks the rules for SEV-SNP machines.
func (w *walker) snpMachines(n *jsonpos.Node, p *path, r *attest.SNPPlatform) {
	if b := n.Member("platformInfo"); b != nil && !w.bad[b.Value] {
		w.bits(&jsonpos.Member{Key: "snp", Value: n}, p, "platformInfo", r.PlatformInfo)
	}
	if f := n.Get("minTCB"); f == nil || w.bad[f] {
		return
	}
	w.products(n.Get("minLaunchTCB"), p.member("minLaunchTCB"), r)
	g := n.Member("grace")
	if g == nil || r.Grace == nil || w.bad[g.Value] || w.incomplete(g.Value) {
		return
	}
	w.products(g.Value.Get("minTCB"), p.member("grace").member("minTCB"), r)
	if !lowersSNP(r) {
		w.lowersNothing(g, p.member("grace"))
	}
}

// products warns of floors for products that are refused.
func (w *walker) products(n *jsonpos.Node, p *path, r *attest.SNPPlatform) {
	if n == nil || w.bad[n] {
		return
	}
	for i := range n.Members {
		m := &n.Members[i]
		if _, named := r.MinTCB[m.Key]; !named && !strings.HasPrefix(m.Key, "$") && !w.bad[m.Value] {
			w.report(p.member(m.Key), keySpan(m), finding{code: "MAN-056", warning: true,
				message: fmt.Sprintf("minTCB does not name %s, so its machines are refused whatever stands here", m.Key)})
		}
	}
}

func lowersSNP(r *attest.SNPPlatform) bool {
	for product, floor := range r.Grace.MinTCB {
		old, named := r.MinTCB[product]
		launch, own := r.MinLaunchTCB[product]
		if named && (len(floor.Below(old)) > 0 || own && len(floor.Below(launch)) > 0) {
			return true
		}
	}
	return r.Grace.MinFirmware != nil && r.MinFirmware != nil && r.Grace.MinFirmware.Less(*r.MinFirmware)
}
