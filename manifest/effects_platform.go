package manifest

import (
	"reflect"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// platformEffects names what a platform accepts that it refused before: floors
// that sink, products that are named, and graces that begin.
func (d *Diff) platformEffects(name string, a, b *Manifest) {
	old, was := a.Platforms[name]
	now, is := b.Platforms[name]
	if !was || !is {
		return
	}
	subject := "platform " + name
	before, floor := old.Floor(), now.Floor()
	before.SNP = d.products(subject, old.SNP, now.SNP)
	for _, lower := range floor.Lowers(before) {
		d.effect(subject, RiskLowerFloors, "demands less: %s", lower)
	}
	ended, ends := graces(old), graces(now)
	for _, part := range sortedKeys(ends) {
		if until := ends[part]; until.After(ended[part]) {
			d.effect(subject, "", "%s: accepts less until %s", part, until.UTC().Format(time.RFC3339))
		}
	}
}

// packageEffects names least security versions that sink.
func (d *Diff) packageEffects(name string, a, b *Manifest) {
	old, was := a.Packages[name]
	now, is := b.Packages[name]
	if !was || !is {
		return
	}
	before, after := minimums(&old), minimums(&now)
	if !reflect.DeepEqual(old, now) {
		return // other software: its versions have nothing to do with those before
	}
	for i := range after {
		if after[i] < before[i] {
			d.effect("package "+name, RiskLowerFloors, "accepts security version %d again; at least %d was demanded", after[i], before[i])
		}
	}
}

// products names products that are accepted now, and returns the old floor of
// those that were and are.
func (d *Diff) products(subject string, old, now *attest.SNPPlatform) *attest.SNPFloor {
	if now == nil {
		return nil // no machine is accepted any more
	}
	floor := &attest.SNPFloor{MinTCB: map[string]attest.SNPTCB{}}
	if old != nil {
		floor.MinFirmware = old.MinFirmware
	}
	for _, product := range sortedKeys(now.MinTCB) {
		if old != nil {
			if tcb, named := old.MinTCB[product]; named {
				floor.MinTCB[product] = tcb
				continue
			}
		}
		d.effect(subject, "", "accepts %s machines", product)
	}
	return floor
}

// graces returns when each of a platform's graces ends.
func graces(p attest.Platform) map[string]time.Time {
	ends := map[string]time.Time{"endorsements": p.Endorsements.GraceUntil}
	for tee, r := range map[string]*attest.DCAPPlatform{"sgx": p.SGX, "tdx": p.TDX, "sim": p.Sim} {
		if r != nil && r.Grace != nil {
			ends[tee] = r.Grace.Until
		}
	}
	if p.SNP != nil && p.SNP.Grace != nil {
		ends["snp"] = p.SNP.Grace.Until
	}
	return ends
}
