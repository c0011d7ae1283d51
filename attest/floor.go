package attest

import (
	"fmt"
	"slices"
	"time"
)

// Floor is what a platform must at least demand, whatever its manifest says. It
// has no field that accepts anything, so raising a platform to it can only make
// the platform stricter. The zero Floor demands nothing.
type Floor struct {
	SGX *DCAPFloor `json:"sgx,omitempty"`
	TDX *DCAPFloor `json:"tdx,omitempty"`
	SNP *SNPFloor  `json:"snp,omitempty"`
	Sim *DCAPFloor `json:"sim,omitempty"`
}

// DCAPFloor is a floor for one TEE of Intel's family.
type DCAPFloor struct {
	MinTCBEvaluation   uint32      `json:"minTCBEvaluation,omitempty"`
	MinTCBDate         time.Time   `json:"minTCBDate,omitzero"`
	RefusedTCBStatuses []TCBStatus `json:"refusedTCBStatuses,omitempty"` // accepted no more; UpToDate stays
	RefusedAdvisories  []string    `json:"refusedAdvisories,omitempty"`  // accepted no more
}

// SNPFloor is a floor for SEV-SNP machines.
type SNPFloor struct {
	// MinTCB by product, of the reported and of the launch TCB. A product that the
	// platform does not name stays refused.
	MinTCB      map[string]SNPTCB `json:"minTCB,omitempty"`
	MinFirmware *SNPFirmware      `json:"minFirmware,omitempty"`
}

// Validate reports a field that no evidence could meet or that says nothing: a
// status or product that is not known, UpToDate among the refused.
func (f Floor) Validate() error {
	for _, d := range f.dcap() {
		if *d.floor == nil {
			continue
		}
		for _, s := range (*d.floor).RefusedTCBStatuses {
			if !slices.Contains(loweredStatuses, s) {
				return fmt.Errorf("%s: %q is no TCB status that could be refused", d.name, s)
			}
		}
		if slices.Contains((*d.floor).RefusedAdvisories, "") {
			return fmt.Errorf("%s: an advisory has no name", d.name)
		}
	}
	if f.SNP != nil {
		for _, product := range sortedKeys(f.SNP.MinTCB) {
			if !slices.Contains(snpProducts, product) {
				return fmt.Errorf("snp: %q is no product: Milan, Genoa or Turin", product)
			}
		}
	}
	return nil
}

var (
	loweredStatuses = []TCBStatus{SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded}
	snpProducts     = []string{"Milan", "Genoa", "Turin"}
)

// namedFloor is a part of a floor by its name.
type namedFloor struct {
	name  string
	floor **DCAPFloor
}

func (f *Floor) dcap() []namedFloor {
	return []namedFloor{{"sgx", &f.SGX}, {"tdx", &f.TDX}, {"sim", &f.Sim}}
}

// Raise returns the platform with every demand at least as high as the floor's,
// its grace included, and what became stricter, one line each. The platform
// itself is not changed.
func (p Platform) Raise(floor Floor) (Platform, []string) {
	var raised []string
	say := func(format string, args ...any) { raised = append(raised, fmt.Sprintf(format, args...)) }
	if floor.SGX != nil {
		p.SGX = p.SGX.raise("sgx", *floor.SGX, say)
	}
	if floor.TDX != nil {
		p.TDX = p.TDX.raise("tdx", *floor.TDX, say)
	}
	if floor.SNP != nil && p.SNP != nil {
		p.SNP = p.SNP.raise(*floor.SNP, say)
	}
	if floor.Sim != nil {
		p.Sim = p.Sim.raise("sim", *floor.Sim, say)
	}
	return p, raised
}

func (d *DCAPPlatform) raise(tee string, f DCAPFloor, say func(string, ...any)) *DCAPPlatform {
	var r DCAPPlatform
	if d != nil {
		r = *d
	}
	if r.Grace != nil {
		grace := *r.Grace
		r.Grace = &grace
	}
	if f.MinTCBEvaluation > r.MinTCBEvaluation {
		say("%s.minTCBEvaluation: %d → %d", tee, r.MinTCBEvaluation, f.MinTCBEvaluation)
		r.MinTCBEvaluation = f.MinTCBEvaluation
	}
	if f.MinTCBDate.After(r.MinTCBDate) {
		say("%s.minTCBDate: %s → %s", tee, dated(r.MinTCBDate), dated(f.MinTCBDate))
		r.MinTCBDate = f.MinTCBDate
	}
	r.AcceptedTCBStatuses = without(r.AcceptedTCBStatuses, f.RefusedTCBStatuses, func(s TCBStatus) { say("%s.acceptedTCBStatuses: without %s", tee, s) })
	for _, a := range f.RefusedAdvisories {
		if slices.Contains(r.RefusedAdvisories, a) {
			continue
		}
		if r.AcceptedAdvisories == nil || slices.Contains(r.AcceptedAdvisories, a) {
			say("%s.refusedAdvisories: with %s", tee, a)
		}
		r.RefusedAdvisories = append(slices.Clip(r.RefusedAdvisories), a)
	}
	if g := r.Grace; g != nil {
		if g.MinTCBEvaluation != nil && *g.MinTCBEvaluation < f.MinTCBEvaluation {
			say("%s.grace.minTCBEvaluation: %d → %d", tee, *g.MinTCBEvaluation, f.MinTCBEvaluation)
			g.MinTCBEvaluation = &f.MinTCBEvaluation
		}
		if !g.MinTCBDate.IsZero() && f.MinTCBDate.After(g.MinTCBDate) {
			say("%s.grace.minTCBDate: %s → %s", tee, dated(g.MinTCBDate), dated(f.MinTCBDate))
			g.MinTCBDate = f.MinTCBDate
		}
		g.AcceptedTCBStatuses = without(g.AcceptedTCBStatuses, f.RefusedTCBStatuses, func(s TCBStatus) { say("%s.grace.acceptedTCBStatuses: without %s", tee, s) })
	}
	return &r
}

// without returns the list without what is refused, and says what went. UpToDate
// is never refused; an empty list stays one.
func without(list, refused []TCBStatus, gone func(TCBStatus)) []TCBStatus {
	if list == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(list), func(s TCBStatus) bool {
		out := s != UpToDate && slices.Contains(refused, s)
		if out {
			gone(s)
		}
		return out
	})
}

func (s *SNPPlatform) raise(f SNPFloor, say func(string, ...any)) *SNPPlatform {
	r := *s
	r.MinTCB = raiseTCB("snp.minTCB", r.MinTCB, f.MinTCB, say)
	r.MinLaunchTCB = raiseTCB("snp.minLaunchTCB", r.MinLaunchTCB, f.MinTCB, say)
	r.MinFirmware = raiseFirmware("snp.minFirmware", r.MinFirmware, f.MinFirmware, say)
	if s.Grace != nil {
		grace := *s.Grace
		grace.MinTCB = raiseTCB("snp.grace.minTCB", grace.MinTCB, f.MinTCB, say)
		if grace.MinFirmware != nil {
			grace.MinFirmware = raiseFirmware("snp.grace.minFirmware", grace.MinFirmware, f.MinFirmware, say)
		}
		r.Grace = &grace
	}
	return &r
}

// raiseTCB raises the products that are named already: to name another would
// accept it.
func raiseTCB(field string, floors, by map[string]SNPTCB, say func(string, ...any)) map[string]SNPTCB {
	if floors == nil {
		return nil
	}
	out := make(map[string]SNPTCB, len(floors))
	for _, product := range sortedKeys(floors) {
		old := floors[product]
		out[product] = old.atLeast(by[product])
		if out[product] != old {
			say("%s.%s: %s → %s", field, product, old, out[product])
		}
	}
	return out
}

func raiseFirmware(field string, old, by *SNPFirmware, say func(string, ...any)) *SNPFirmware {
	switch {
	case by == nil || old != nil && !old.Less(*by):
		return old
	case old == nil:
		say("%s: none → %s", field, by)
	default:
		say("%s: %s → %s", field, old, by)
	}
	return by
}

// atLeast returns the higher of each component.
func (t SNPTCB) atLeast(o SNPTCB) SNPTCB {
	return SNPTCB{FMC: max(t.FMC, o.FMC), Bootloader: max(t.Bootloader, o.Bootloader), TEE: max(t.TEE, o.TEE),
		SNP: max(t.SNP, o.SNP), Microcode: max(t.Microcode, o.Microcode)}
}

func dated(t time.Time) string {
	if t.IsZero() {
		return "none"
	}
	return t.UTC().Format(time.RFC3339)
}

// Lowers returns what f demands less than old does, one line each; none if f is
// at least as strict everywhere.
func (f Floor) Lowers(old Floor) []string {
	var lower []string
	say := func(format string, args ...any) { lower = append(lower, fmt.Sprintf(format, args...)) }
	now := f.dcap()
	for i, was := range old.dcap() {
		if *was.floor == nil {
			continue
		}
		is := *now[i].floor
		if is == nil {
			is = &DCAPFloor{}
		}
		is.lowers(was.name, **was.floor, say)
	}
	if old.SNP == nil {
		return lower
	}
	var is SNPFloor
	if f.SNP != nil {
		is = *f.SNP
	}
	for _, product := range sortedKeys(old.SNP.MinTCB) {
		for _, part := range is.MinTCB[product].Below(old.SNP.MinTCB[product]) {
			say("snp.minTCB.%s: %s", product, part)
		}
	}
	if was := old.SNP.MinFirmware; was != nil && (is.MinFirmware == nil || is.MinFirmware.Less(*was)) {
		say("snp.minFirmware: %s, the floor is %s", is.firmware(), was)
	}
	return lower
}

func (f SNPFloor) firmware() string {
	if f.MinFirmware == nil {
		return "none"
	}
	return f.MinFirmware.String()
}

// Floor returns the least that the platform demands now: without its grace, and
// with every status among the refused that it does not accept.
func (p Platform) Floor() Floor {
	f := Floor{SGX: p.SGX.floor(), TDX: p.TDX.floor(), Sim: p.Sim.floor()}
	if p.SNP != nil {
		f.SNP = &SNPFloor{MinTCB: p.SNP.MinTCB, MinFirmware: p.SNP.MinFirmware}
	}
	return f
}

func (d *DCAPPlatform) floor() *DCAPFloor {
	if d == nil {
		d = &DCAPPlatform{}
	}
	f := &DCAPFloor{MinTCBEvaluation: d.MinTCBEvaluation, MinTCBDate: d.MinTCBDate, RefusedAdvisories: d.RefusedAdvisories}
	for _, s := range loweredStatuses {
		if !slices.Contains(d.AcceptedTCBStatuses, s) {
			f.RefusedTCBStatuses = append(f.RefusedTCBStatuses, s)
		}
	}
	return f
}

func (d *DCAPFloor) lowers(tee string, old DCAPFloor, say func(string, ...any)) {
	if d.MinTCBEvaluation < old.MinTCBEvaluation {
		say("%s.minTCBEvaluation: %d, the floor is %d", tee, d.MinTCBEvaluation, old.MinTCBEvaluation)
	}
	if d.MinTCBDate.Before(old.MinTCBDate) {
		say("%s.minTCBDate: %s, the floor is %s", tee, dated(d.MinTCBDate), dated(old.MinTCBDate))
	}
	for _, s := range old.RefusedTCBStatuses {
		if !slices.Contains(d.RefusedTCBStatuses, s) {
			say("%s.refusedTCBStatuses: without %s", tee, s)
		}
	}
	for _, a := range old.RefusedAdvisories {
		if !slices.Contains(d.RefusedAdvisories, a) {
			say("%s.refusedAdvisories: without %s", tee, a)
		}
	}
}
