package mesh

import (
	"maps"
	"slices"

	"github.com/ashlar-mesh/ashlar/coordinator"
)

// instanceKey names an instance.
type instanceKey struct{ marble, id string }

// set is what one instance gets. It is never changed once made.
type set struct {
	in       coordinator.ViewInstance
	revision string
	res      *Resources
	gen      [kinds]uint64 // differs whenever the group of the kind does
	failed   error         // why res is older than revision; nil if it is not
}

// snapshot is everybody's set for one View. It is never changed once made.
type snapshot struct {
	view    *coordinator.View
	sets    map[instanceKey]*set
	lastGen uint64
}

// next compiles a View, and takes over from s what has not changed: after a
// change of endpoints only endpoints are compiled. What cannot be compiled keeps
// its former resources and says why.
func (s *snapshot) next(v *coordinator.View) *snapshot {
	n := &snapshot{view: v, sets: make(map[instanceKey]*set, len(v.Instances)), lastGen: s.lastGen}
	c := newCompiler(v)
	same := s.view != nil && s.view.Manifest == v.Manifest && s.view.Revision == v.Revision && s.view.TrustDomain == v.TrustDomain &&
		slices.Equal(s.view.Barred, v.Barred)
	gens := map[string]uint64{} // of the endpoints of a marble
	for _, in := range v.Instances {
		key := instanceKey{in.Marble, in.ID}
		old := s.sets[key]
		cur, err := n.compile(c, in, old, same)
		if err != nil {
			cur = &set{in: in, revision: v.Revision, res: new(Resources), failed: err}
			if old != nil {
				cur.res, cur.gen = old.res, old.gen
			}
			n.sets[key] = cur
			continue
		}
		if old != nil && old.res != nil && sameGroup(old.res[Endpoint], cur.res[Endpoint]) {
			cur.res[Endpoint], cur.gen[Endpoint] = old.res[Endpoint], old.gen[Endpoint]
		} else {
			if gens[in.Marble] == 0 {
				gens[in.Marble] = n.newGen()
			}
			cur.gen[Endpoint] = gens[in.Marble]
		}
		n.sets[key] = cur
	}
	return n
}

// compile returns the set of one instance, its endpoints' generation not yet
// set.
func (n *snapshot) compile(c *compiler, in coordinator.ViewInstance, old *set, same bool) (*set, error) {
	cur := &set{in: in, revision: n.view.Revision}
	if same && old != nil && old.in == in && old.failed == nil {
		eps, err := c.endpointsFor(in)
		if err != nil {
			return nil, err
		}
		res := *old.res
		res[Endpoint] = eps
		cur.res, cur.gen = &res, old.gen
		return cur, nil
	}
	res, err := c.instance(in)
	if err != nil {
		return nil, err
	}
	cur.res = res
	for _, k := range []Kind{Cluster, Listener, Route} {
		if old != nil && sameGroup(old.res[k], res[k]) {
			res[k], cur.gen[k] = old.res[k], old.gen[k]
		} else {
			cur.gen[k] = n.newGen()
		}
	}
	return cur, nil
}

func (n *snapshot) newGen() uint64 {
	n.lastGen++
	return n.lastGen
}

// sameGroup reports whether both hold the same resources in the same versions.
func sameGroup(a, b Group) bool {
	if len(a) != len(b) || a == nil || b == nil {
		return false
	}
	for name := range maps.Keys(a) {
		if r, ok := b[name]; !ok || r.Version != a[name].Version {
			return false
		}
	}
	return true
}
