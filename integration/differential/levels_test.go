package differential

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
)

// statuses of TCB levels; enclaves and modules have the last three.
var statuses = []string{"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDateConfigurationNeeded", "OutOfDate", "Revoked"}

// platforms is how many machines with levels of their own are made up.
const platforms = 300

// madeUp returns evidence that is signed throughout, of machines, quoting
// enclaves and modules at random levels of random documents.
func madeUp(t *testing.T) []testCase {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	var out []testCase
	for _, tee := range []attest.TEE{attest.SGX, attest.TDX} {
		f := attesttest.NewIntelForge(t, tee, "Intel SGX")
		qe := f.QE["tcbLevels"]
		for n := range platforms {
			svns := make([]int, 17)
			for i := range svns {
				svns[i] = 3 + r.IntN(4)
			}
			f.Extension = attesttest.PCKExtension(t, 0, "010203040506", "0000", svns...)
			f.TCB["tcbLevels"] = levels(f, r)
			f.QE["tcbLevels"] = qe
			if r.IntN(3) == 0 {
				f.QE["tcbLevels"] = isvLevels(r, 7)
			}
			if tee == attest.TDX {
				tdxLevels(f, r)
			}
			e, en := f.Make()
			out = append(out, testCase{name: fmt.Sprintf("%s machine %d", tee, n), evidence: e, endorsements: en, at: attesttest.ForgeTime, root: f.Root})
		}
	}
	return out
}

// levels returns TCB levels of a platform, best first as the vendor sorts them.
func levels(f *attesttest.IntelForge, r *rand.Rand) []any {
	var out []any
	for i := range 1 + r.IntN(5) {
		status := statuses[min(len(statuses)-1, i+r.IntN(3))]
		l := f.Level(max(1, 5-i), max(1, 4-i), status)
		tcb := l["tcb"].(map[string]any)
		tcb["pcesvn"] = max(0, 5-i-r.IntN(2))
		for _, list := range []string{"sgxtcbcomponents", "tdxtcbcomponents"} {
			if c, ok := tcb[list].([]any); ok {
				c[r.IntN(16)].(map[string]any)["svn"] = max(0, 6-i)
			}
		}
		l["advisoryIDs"] = []any{fmt.Sprintf("INTEL-SA-%05d", r.IntN(4)), fmt.Sprintf("INTEL-SA-%05d", r.IntN(4))}
		out = append(out, l)
	}
	return out
}

func isvLevels(r *rand.Rand, around int) []any {
	var out []any
	for i, status := range []string{"UpToDate", "OutOfDate", "Revoked"} {
		out = append(out, attesttest.ISVLevel(around+1-i-r.IntN(2), status))
	}
	return out
}

// tdxLevels gives a guest a TEE TCB, a module and a body of some version.
func tdxLevels(f *attesttest.IntelForge, r *rand.Rand) {
	f.Version, f.Body = 5, slices.Grow(f.Body, 648)[:648]
	for i := range 16 {
		f.Body[i] = byte(2 + r.IntN(4))
	}
	f.Body[1] = byte(r.IntN(3))
	for i := 584; i < 600; i++ {
		f.Body[i] = byte(3 + r.IntN(4)) // TEE_TCB_SVN_2
	}
	f.Body[585] = byte(r.IntN(3))
	var modules []any
	for id := range 1 + r.IntN(3) {
		modules = append(modules, attesttest.Module(fmt.Sprintf("TDX_%02x", id+1), isvLevels(r, 4)))
	}
	f.TCB["tdxModuleIdentities"] = modules
	switch r.IntN(3) {
	case 0:
		f.TD10(4)
	case 1:
		f.TD10(5)
	}
}

// TestQVLLevels compares with dcap-qvl at which level a platform is and what the
// parts make together.
func TestQVLLevels(t *testing.T) {
	q := startQVL(t)
	agree := func(a, b answer) bool {
		return a.ok == b.ok && (!a.ok || a.status == b.status && slices.Equal(a.advisories, b.advisories))
	}
	compare(t, madeUp(t), intel(t), q.ask, agree, []disagreement{
		{"accepted, Revoked", "Revoked", "", "dcap-qvl refuses a revoked TCB; here it is a status, which no policy can accept"},
		{"accepted, OutOfDate", "accepted, TDRelaunchAdvised", "tdx", "dcap-qvl has a status of its own for a guest that alone is old; here it stays out of date, and a step says so"},
	})
}
