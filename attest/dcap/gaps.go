package dcap

import (
	"fmt"
	"slices"

	"github.com/ashlar-mesh/ashlar/attest"
)

// part is a part of a platform with the levels that the vendor lists for it.
type part struct {
	name   string
	levels []level
	met    *level // nil if it meets none
	below  func(*level) []attest.TCBComponent
}

// rank orders statuses, best first; those that are not known come last.
var rank = []attest.TCBStatus{attest.UpToDate, attest.SWHardeningNeeded, attest.ConfigurationNeeded, attest.ConfigurationAndSWHardeningNeeded,
	attest.OutOfDate, attest.OutOfDateConfigurationNeeded, attest.Revoked}

func rankOf(s attest.TCBStatus) int {
	if i := slices.Index(rank, s); i >= 0 {
		return i
	}
	return len(rank)
}

// gap compares a part with the best level that the vendor lists for it, of
// several equally good ones with that which needs the fewest components. A part
// that meets a level as good has none.
func (p part) gap() (attest.TCBGap, bool) {
	var best *level
	var below []attest.TCBComponent
	for i := range p.levels {
		l := &p.levels[i]
		if best != nil && rankOf(l.Status) > rankOf(best.Status) {
			continue
		}
		if b := p.below(l); best == nil || rankOf(l.Status) < rankOf(best.Status) || len(b) < len(below) {
			best, below = l, b
		}
	}
	if best == nil || len(below) == 0 || p.met != nil && rankOf(p.met.Status) <= rankOf(best.Status) {
		return attest.TCBGap{}, false
	}
	g := attest.TCBGap{Part: p.name, Met: statusOf(p.met), Best: best.Status, Date: best.Date, Below: below, Closes: []string{}}
	if p.met != nil {
		for _, a := range union(p.met) {
			if !slices.Contains(best.Advisories, a) {
				g.Closes = append(g.Closes, a)
			}
		}
	}
	return g, true
}

// gaps says what each part of the platform lacks. It is called only where one
// is not up to date.
func (r *run) gaps(t *attest.TDXClaims, platform, qe, mod *level, module *moduleIdentity) []attest.TCBGap {
	var teeSVN []byte
	if t != nil {
		teeSVN = t.TEETCBSVN
	}
	parts := []part{
		{"platform", r.col.tcb.Levels, platform, func(l *level) []attest.TCBComponent { return r.chain.platform.below(l, teeSVN) }},
		{"qe", r.col.qe.Levels, qe, func(l *level) []attest.TCBComponent {
			return isvBelow("QE ISVSVN", sgxReport(r.quote.qeReport).securityVersion(), l)
		}},
	}
	if module != nil && teeSVN[1] > 0 {
		name := fmt.Sprintf("TDX module %d SVN", teeSVN[1])
		parts = append(parts, part{"module", module.Levels, mod, func(l *level) []attest.TCBComponent {
			return isvBelow(name, uint16(teeSVN[0]), l)
		}})
	}
	var out []attest.TCBGap
	for _, p := range parts {
		if g, ok := p.gap(); ok {
			g.Relaunch = p.name == "module" && r.relaunch(t)
			out = append(out, g)
		}
	}
	return out
}

// relaunch reports whether the TDX module that runs now is at the best level of
// its identity, though the guest was started under an older one. The status is
// that of the module that started the guest all the same.
func (r *run) relaunch(t *attest.TDXClaims) bool {
	if t == nil || len(t.TEETCBSVN2) == 0 || t.TEETCBSVN2[1] == 0 {
		return false
	}
	m := r.col.tcb.module(t.TEETCBSVN2)
	if m == nil {
		return false
	}
	l := enclaveLevel(m.Levels, uint16(t.TEETCBSVN2[0]))
	return l != nil && l.Status == attest.UpToDate
}

// below lists the components of a platform that are too low for a level.
func (p *platform) below(l *level, teeSVN []byte) []attest.TCBComponent {
	var out []attest.TCBComponent
	add := func(c component, i int, prefix string, has uint8) {
		if has >= c.SVN {
			return
		}
		name := c.Type
		if name == "" {
			name = fmt.Sprintf("%scomponent %d", prefix, i+1)
		}
		out = append(out, attest.TCBComponent{Name: name, Category: c.Category, Has: uint16(has), Needs: uint16(c.SVN)})
	}
	for i, c := range l.TCB.SGX {
		add(c, i, "", p.svn[i])
	}
	if p.pcesvn < *l.TCB.PCESVN {
		out = append(out, attest.TCBComponent{Name: attest.PCESVN, Has: p.pcesvn, Needs: *l.TCB.PCESVN})
	}
	if teeSVN == nil {
		return out
	}
	for i := moduleComponents(teeSVN); i < len(l.TCB.TDX); i++ {
		add(l.TCB.TDX[i], i, "TDX ", teeSVN[i])
	}
	return out
}

func isvBelow(name string, has uint16, l *level) []attest.TCBComponent {
	if has >= *l.TCB.ISVSVN {
		return nil
	}
	return []attest.TCBComponent{{Name: name, Has: has, Needs: *l.TCB.ISVSVN}}
}
