package manifest

import "slices"

// Approval is what a demand needs: so many users who hold updateManifest for its
// path, or one who holds a narrow right to it.
type Approval struct {
	Demand
	Needed  int      `json:"needed"`          // distinct holders, the one who asks included
	Holders []string `json:"holders"`         // users with updateManifest for the path, sorted
	Alone   []string `json:"alone,omitempty"` // users with a narrow right, sorted: each suffices
}

// Counts reports whether a user's agreement counts.
func (a Approval) Counts(user string) bool {
	return slices.Contains(a.Holders, user) || slices.Contains(a.Alone, user)
}

// Approvers returns what each demand needs under a manifest, which is the one in
// force and never the one that is proposed: its users, its roles, its numbers.
//
// As many have to agree as the highest number in approvals says whose right
// covers the path; one, where none does. Raising alone takes one user with the
// narrow right, since it never accepts more.
func Approvers(m *Manifest, demands []Demand) []Approval {
	all := make([]Approval, 0, len(demands))
	p := newPowers(m)
	for _, d := range demands {
		a := Approval{Demand: d, Needed: max(d.Least, Needed(m, d.Rights[0])), Holders: p.holders(d.Rights[0])}
		for _, right := range d.Rights[1:] {
			a.Alone = append(a.Alone, p.holders(right)...)
		}
		slices.Sort(a.Alone)
		a.Alone = slices.Compact(a.Alone)
		all = append(all, a)
	}
	return all
}

// Needed is how many users have to agree before a right is used: the highest
// number in approvals whose key covers the right, and 1 without one.
func Needed(m *Manifest, right string) int {
	n := 1
	for key, number := range m.Approvals {
		if covers(key, right) {
			n = max(n, number)
		}
	}
	return n
}

// Missing is what a demand still lacks.
type Missing struct {
	Path   string   `json:"path"`
	Needed int      `json:"needed"`          // distinct users with updateManifest for the path
	Agreed []string `json:"agreed"`          // of those, who agreed, sorted
	Could  []string `json:"could,omitempty"` // and who did not, sorted
	Alone  []string `json:"alone,omitempty"` // users with a narrow right, sorted: each suffices
}

// Possible reports whether there are enough users at all who could agree.
func (m Missing) Possible() bool {
	return len(m.Alone) > 0 || len(m.Agreed)+len(m.Could) >= m.Needed
}

// Settled returns the demands for which the agreement of these users is not
// enough under the manifest in force; none, where the revision may be set. Each
// user counts once, and only for the paths that the user has a right to: who may
// change packages alone settles nothing of grants.
func Settled(m *Manifest, demands []Demand, agreed []string) []Missing {
	var missing []Missing
	for _, a := range Approvers(m, demands) {
		if slices.ContainsFunc(a.Alone, func(user string) bool { return slices.Contains(agreed, user) }) {
			continue
		}
		m := Missing{Path: a.Path, Needed: a.Needed, Agreed: []string{}, Alone: a.Alone}
		for _, user := range a.Holders {
			if slices.Contains(agreed, user) {
				m.Agreed = append(m.Agreed, user)
			} else {
				m.Could = append(m.Could, user)
			}
		}
		if len(m.Agreed) < m.Needed {
			missing = append(missing, m)
		}
	}
	return missing
}
