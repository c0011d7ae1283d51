package manifest

import "strings"

// May reports whether a user of the manifest has a right.
func (m *Manifest) May(user, right string) bool {
	for _, role := range m.Users[user].Roles {
		for _, action := range m.Roles[role].Actions {
			if covers(action, right) {
				return true
			}
		}
	}
	return false
}

// covers reports whether an action gives a right: it is the right, or has "*" in
// the place of a name, or is for a path above the right's. "revoke:*" is for
// every path.
func covers(action, right string) bool {
	given, above, scoped := strings.Cut(action, ":")
	asked, path, _ := strings.Cut(right, ":")
	if given != asked {
		return false
	}
	if !scoped || above == "*" {
		return true
	}
	for {
		name, deeper, more := strings.Cut(above, "/")
		wanted, below, further := strings.Cut(path, "/")
		if name != "*" && name != wanted {
			return false
		}
		if !more {
			return true
		}
		if !further {
			return false
		}
		above, path = deeper, below
	}
}
