package cli

import (
	"encoding/json"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// established is what a verification establishes.
type established struct {
	client.Verified
	inForce *manifest.Manifest // nil where there is none, or it could not be read
	unread  error              // why it could not
}

// coordinators are who may hold the state too, by the manifest in force.
func (e established) coordinators() *manifest.Coordinators {
	if e.inForce == nil {
		return nil
	}
	return e.inForce.Coordinators
}

// coordinatorLines says which software may hold the state too. The policy that
// the coordinator was judged by says nothing of it: the manifest does.
func (a *app) coordinatorLines(e established) {
	p := a.p
	if e.unread != nil {
		p.Printf("coordinators  %s not known, the manifest cannot be read: %s\n", p.Yellow(term.Warn), term.Line(e.unread.Error()))
	}
	who := e.coordinators()
	if who == nil {
		return
	}
	p.Printf("coordinators  what meets package %s on platform %s may hold the state too, and gets every key\n", who.Package, who.Platform)
	pkg := e.inForce.Packages[who.Package]
	p.Columns(a.shortened(wantedRows(pkg)))
	if pkg.AllowDebug {
		p.Printf("  %s debug enclaves and guests too: their hosts can read every key\n", p.Red(term.Bad))
	}
}

// wantedRows lists what a package wants of software: name and value.
func wantedRows(pkg attest.Package) [][]string {
	pkg.AllowDebug = false
	raw, err := json.Marshal(pkg)
	var tree map[string]any
	if err != nil || json.Unmarshal(raw, &tree) != nil {
		return nil
	}
	return leaves("", tree)
}
