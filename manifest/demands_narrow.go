package manifest

import (
	"reflect"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
)

// narrow adds the right to do no more than this change does, and for approvals
// the numbers that it lowers.
func (d *Demand) narrow(old, new *Manifest) {
	section, name, _ := strings.Cut(d.Path, "/")
	for _, c := range d.Changes {
		if strings.HasSuffix(c.Path, "."+comment) {
			return // a note says more than a higher number does
		}
	}
	switch section {
	case "packages":
		was, had := old.Packages[name]
		is, has := new.Packages[name]
		if had && has && raisesSecurityVersion(was, is) {
			d.Rights = append(d.Rights, RaiseSecurityVersion+name)
		}
	case "platforms":
		was, had := old.Platforms[name]
		is, has := new.Platforms[name]
		if had && has && raisesFloor(was, is) {
			d.Rights = append(d.Rights, RaiseFloor+name)
		}
	case "approvals":
		for right, n := range old.Approvals {
			if new.Approvals[right] < n {
				d.Least = max(d.Least, n)
			}
		}
	}
}

// raisesSecurityVersion reports whether a package differs from the one before it
// in least security versions alone, none of which is lower: of SGX enclaves
// (ISVSVN) and their configuration (CONFIGSVN), and of SEV-SNP guests (GUEST_SVN),
// in Azure's machines too. One that was not given was 0.
func raisesSecurityVersion(old, new attest.Package) bool {
	was, is := minimums(&old), minimums(&new)
	if len(was) != len(is) {
		return false
	}
	for i := range was {
		if is[i] < was[i] {
			return false
		}
	}
	return reflect.DeepEqual(old, new)
}

// minimums takes the least security versions out of a package. What they were
// part of is copied.
func minimums(p *attest.Package) []uint32 {
	var all []uint32
	if p.SGX != nil {
		sgx := *p.SGX
		all = append(all, taken(&sgx.MinSecurityVersion), taken(&sgx.MinConfigSVN))
		p.SGX = &sgx
	}
	guest := func(snp **attest.SNPReference) {
		if *snp != nil {
			ref := **snp
			all = append(all, taken(&ref.MinGuestSVN))
			*snp = &ref
		}
	}
	guest(&p.SNP)
	if p.Azure != nil {
		azure := *p.Azure
		guest(&azure.SNP)
		p.Azure = &azure
	}
	return all
}

func taken[N uint16 | uint32](at **N) uint32 {
	n := N(0)
	if *at != nil {
		n = **at
	}
	*at = nil
	return uint32(n)
}

// raisesFloor reports whether a platform is the one before it with a floor
// raised, as Platform.Raise would. What is lower than the new floor already, and
// accepted on its own terms, may stay: graces, and launch floors of AMD.
func raisesFloor(old, new attest.Platform) bool {
	want, _ := old.Raise(new.Floor())
	keepLower(&want, old, new)
	return reflect.DeepEqual(plainFloors(want), plainFloors(new))
}

// keepLower undoes what Raise did to parts that the new platform has as the old
// one had them.
func keepLower(want *attest.Platform, old, new attest.Platform) {
	for _, p := range []struct {
		want     **attest.DCAPPlatform
		old, new *attest.DCAPPlatform
	}{{&want.SGX, old.SGX, new.SGX}, {&want.TDX, old.TDX, new.TDX}, {&want.Sim, old.Sim, new.Sim}} {
		if p.old != nil && p.new != nil && reflect.DeepEqual(p.old.Grace, p.new.Grace) {
			rules := **p.want
			rules.Grace = p.old.Grace
			*p.want = &rules
		}
	}
	if old.SNP == nil || new.SNP == nil {
		return
	}
	rules := *want.SNP
	if reflect.DeepEqual(old.SNP.MinLaunchTCB, new.SNP.MinLaunchTCB) {
		rules.MinLaunchTCB = old.SNP.MinLaunchTCB
	}
	if reflect.DeepEqual(old.SNP.Grace, new.SNP.Grace) {
		rules.Grace = old.SNP.Grace
	}
	want.SNP = &rules
}

// plainFloors is a platform in the one form that its meaning has: rules for each
// TEE, lists sorted.
func plainFloors(p attest.Platform) attest.Platform {
	for _, rules := range []**attest.DCAPPlatform{&p.SGX, &p.TDX, &p.Sim} {
		var d attest.DCAPPlatform
		if *rules != nil {
			d = **rules
		}
		d.AcceptedTCBStatuses = plainList(d.AcceptedTCBStatuses, attest.UpToDate)
		d.RefusedAdvisories = plainList(d.RefusedAdvisories, "")
		*rules = &d
	}
	return p
}

func plainList[S ~string](list []S, implied S) []S {
	out := slices.Clone(list)
	slices.Sort(out)
	out = slices.DeleteFunc(slices.Compact(out), func(s S) bool { return s == implied })
	if len(out) == 0 {
		return nil
	}
	return out
}
