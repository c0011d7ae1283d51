package dcap

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// platformLevel returns the first TCB level that the platform meets in every
// component. A TDX module of major version 1 or higher (teeSVN[1]) is judged by
// its own identity, so the first two TDX components are left out then.
func (t *tcbInfo) platformLevel(p *platform, teeSVN []byte) *level {
	for i := range t.Levels {
		l := &t.Levels[i]
		if p.pcesvn >= *l.TCB.PCESVN && atLeast(p.svn[:], l.TCB.SGX, 0) && (teeSVN == nil || atLeast(teeSVN, l.TCB.TDX, moduleComponents(teeSVN))) {
			return l
		}
	}
	return nil
}

func moduleComponents(teeSVN []byte) int {
	if teeSVN[1] > 0 {
		return 2
	}
	return 0
}

func atLeast(have []byte, want []component, from int) bool {
	for i := from; i < len(want); i++ {
		if have[i] < want[i].SVN {
			return false
		}
	}
	return true
}

// enclaveLevel returns the first level that an enclave or module of the given
// ISVSVN meets.
func enclaveLevel(levels []level, svn uint16) *level {
	for i := range levels {
		if svn >= *levels[i].TCB.ISVSVN {
			return &levels[i]
		}
	}
	return nil
}

// module returns the identity that a TDX module of this TEE_TCB_SVN must have,
// with its levels; nil if Intel lists none.
func (t *tcbInfo) module(teeSVN []byte) *moduleIdentity {
	if teeSVN[1] == 0 {
		return t.Module
	}
	id := fmt.Sprintf("TDX_%02x", teeSVN[1])
	for i := range t.Modules {
		if strings.EqualFold(t.Modules[i].ID, id) {
			return &t.Modules[i]
		}
	}
	return nil
}

// converge combines the platform's status with that of a part, the quoting
// enclave or the TDX module: Revoked wins, and a part that is not up to date
// makes the whole out of date (Intel DCAP quote verification, "converge TCB
// status").
func converge(platform, part attest.TCBStatus) attest.TCBStatus {
	switch {
	case platform == attest.Revoked || part == attest.Revoked:
		return attest.Revoked
	case part == attest.UpToDate:
		return platform
	}
	switch platform {
	case attest.UpToDate, attest.SWHardeningNeeded:
		return attest.OutOfDate
	case attest.ConfigurationNeeded, attest.ConfigurationAndSWHardeningNeeded:
		return attest.OutOfDateConfigurationNeeded
	}
	return platform
}

// union returns the advisories of the levels, sorted, each once.
func union(levels ...*level) []string {
	out := []string{}
	for _, l := range levels {
		if l != nil {
			out = append(out, l.Advisories...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// levelDate returns the earliest tcbDate of the levels; zero without one.
func levelDate(levels ...*level) time.Time {
	var first time.Time
	for _, l := range levels {
		if l == nil {
			continue
		}
		at, err := time.Parse(time.RFC3339, l.Date)
		if err == nil && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}
