package cli

import (
	"github.com/ashlar-mesh/ashlar/coordinator/client"
)

// lifted shows the rules that are lifted, which the evidence vouches for, and
// refuses them unless that is accepted.
func (a *app) lifted(v client.Verified, f verifyFlags) error {
	for _, in := range v.BreakGlass {
		a.p.Note(a.p.Red("BREAK-GLASS "+incidentText(in)) + " until " + instant(in.Until) + ", by " + in.By + ": " + in.Reason + "\n")
	}
	if f.breakGlass {
		return nil
	}
	return v.CheckBreakGlass()
}
