package attest

import (
	"cmp"
	"maps"
	"slices"
)

// Distance says how far claims are from a package.
type Distance struct {
	Package string `json:"package"`
	Fields  int    `json:"distance"` // of the package that differ
	// Absent says that the package has no reference values for the TEE: it is
	// further than any that has.
	Absent bool `json:"absent,omitempty"`
}

// Distances compares claims with every package. The nearest comes first, of
// equals the first in order of name.
func Distances(c Claims, packages map[string]Policy) []Distance {
	out := make([]Distance, 0, len(packages))
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		d := Distance{Package: name}
		p, k := packages[name].Package, check{}
		k.packages(c, &p)
		for _, s := range k.steps {
			if !s.OK {
				d.Fields++
				d.Absent = d.Absent || s.Code == CodeNoReference && s.Field == referenceKey(c.TEE)
			}
		}
		out = append(out, d)
	}
	slices.SortStableFunc(out, func(a, b Distance) int {
		if a.Absent != b.Absent {
			return map[bool]int{true: 1, false: -1}[a.Absent]
		}
		return cmp.Compare(a.Fields, b.Fields)
	})
	return out
}

// Nearest returns the package whose policy the claims come closest to, and how
// many of its steps fail. Without packages it returns "" and 0.
func Nearest(c Claims, packages map[string]Policy) (name string, distance int) {
	all := Distances(c, packages)
	if len(all) == 0 {
		return "", 0
	}
	return all[0].Package, all[0].Fields
}
