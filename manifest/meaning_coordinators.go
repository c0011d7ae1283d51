package manifest

import (
	"fmt"
	"reflect"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// coordinators checks who may hold the state. Whoever meets the package gets all
// that the deployment has, so it must not be open to any software, and should be
// open neither to the host nor to what runs as a marble.
func (c *checker) coordinators() {
	m := c.root.Member("coordinators")
	if m == nil || c.bad[m.Value] || c.m.Coordinators == nil {
		return
	}
	who, p := c.m.Coordinators, (*path)(nil).member("coordinators")
	c.software(m, p, who.Package, &who.Platform)
	if _, taken := c.m.Marbles[m.Key]; taken {
		c.report(p, keySpan(m), finding{code: "MAN-113", message: "a marble has the name coordinators, so decisions about its instances and about coordinators could not be told apart", suggest: "give the marble another name"})
	}
	pkg, known := c.m.Packages[who.Package]
	if !known {
		return
	}
	at, n := p.member("package"), m.Value.Get("package")
	for _, o := range openings(pkg) {
		if o.at[len(o.at)-1] == anyMeasurement {
			c.report(at, spanOf(n), finding{code: "MAN-110", message: fmt.Sprintf("package %s accepts any measurement under %s, so any software would get the key of the state", who.Package, o.at[len(o.at)-2]),
				suggest: "name a package that gives the measurements of the coordinator's release"})
			return
		}
	}
	if pkg.AllowDebug {
		c.report(at, spanOf(n), finding{code: "MAN-111", warning: true, message: fmt.Sprintf("package %s accepts debug enclaves and guests, so the host of one could read the key of the state", who.Package)})
	}
	c.shared(n, at, pkg)
}

// shared warns of marbles that meet the coordinators' reference values.
func (c *checker) shared(n *jsonpos.Node, at *path, pkg attest.Package) {
	var all []string
	same := make(map[string]bool)
	for _, name := range c.packageNames {
		same[name] = reflect.DeepEqual(c.m.Packages[name], pkg)
	}
	for _, name := range c.marbleNames {
		if same[c.m.Marbles[name].Package] {
			all = append(all, name)
		}
	}
	if len(all) > 0 {
		c.report(at, spanOf(n), finding{code: "MAN-112", warning: true, message: fmt.Sprintf("what runs as %s meets the package of coordinators too: it could ask for the key of the state", some(all)),
			suggest: "give coordinators a package of their own"})
	}
}
