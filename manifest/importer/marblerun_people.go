package importer

import (
	"fmt"
	"maps"
	"slices"

	"github.com/ashlar-mesh/ashlar/manifest"
)

// maxApprovals is the highest number that approvals can have.
const maxApprovals = 16

// people turns roles and users into those that have a right here.
func (im *marbleRunImport) people(root value) {
	roles, users := principalNames(), principalNames()
	for _, r := range root.get("Roles").members() {
		im.role(r, roles.name(r.name))
	}
	for _, u := range root.get("Users").members() {
		name := users.name(u.name)
		path := join("users", name)
		out := manifest.User{Certificate: u.get("Certificate").text()}
		for _, r := range u.get("Roles").items() {
			if _, has := im.m.Roles[roles.name(r.text())]; has {
				out.Roles = append(out.Roles, roles.name(r.text()))
				r.maps(path + ".roles")
			} else {
				r.note(NoCounterpart, "", "the role has no right here")
			}
		}
		if len(out.Roles) == 0 {
			u.leave(Dropped, "the user would have no right here")
			continue
		}
		if im.m.Users == nil {
			im.m.Users = map[string]manifest.User{}
		}
		slices.Sort(out.Roles)
		out.Roles = slices.Compact(out.Roles)
		im.m.Users[name] = out
		u.get("Certificate").note(Maps, path+".certificate", renamed(u.name, name))
	}
	im.threshold(root)
	im.recovery(root, users)
}

// role reads a role's actions on its resources.
func (im *marbleRunImport) role(r member, name string) {
	var actions []string
	path := join("roles", name) + ".actions"
	kind, names := r.get("ResourceType"), r.get("ResourceNames")
	for _, a := range r.get("Actions").items() {
		var rights []string
		switch {
		case kind.text() == "Manifest" && isFold(a.text(), "UpdateManifest"):
			rights = []string{manifest.UpdateManifest}
		case kind.text() == "Packages" && isFold(a.text(), "UpdateSecurityVersion"):
			rights = im.rightsTo(names, manifest.RaiseSecurityVersion, path)
		case kind.text() == "Secrets" && isFold(a.text(), "ReadSecret"):
			rights = im.rightsTo(names, manifest.ReadSecret, path)
		case kind.text() == "Secrets" && isFold(a.text(), "WriteSecret"):
			rights = im.rightsTo(names, manifest.WriteSecret, path)
		}
		if len(rights) == 0 {
			a.note(NoCounterpart, "", "it is for nothing that is here")
			continue
		}
		a.maps(path)
		actions = append(actions, rights...)
	}
	if len(actions) == 0 {
		r.leave(Dropped, "no action of the role has a counterpart")
		return
	}
	kind.maps(path)
	if names.empty() {
		names.maps(path)
	}
	slices.Sort(actions)
	if im.m.Roles == nil {
		im.m.Roles = map[string]manifest.Role{}
	}
	im.m.Roles[name] = manifest.Role{Actions: slices.Compact(actions)}
}

// rightsTo returns a right to each of the resources that are here.
func (im *marbleRunImport) rightsTo(names value, kind, path string) []string {
	var rights []string
	for _, n := range names.items() {
		here, is := "", false
		if kind == manifest.RaiseSecurityVersion {
			if _, is = im.platforms[n.text()]; is {
				here = im.packages.name(n.text())
			}
		} else if k, kept := im.book.kept[n.text()]; kept {
			here = k.name
			s, released := im.m.Secrets[here]
			is = released && (kind != manifest.WriteSecret || s.Type == manifest.Opaque)
		}
		if !is {
			n.note(Dropped, "", "there is no such thing here to have the right to")
			continue
		}
		n.maps(path)
		rights = append(rights, kind+here)
	}
	return rights
}

// threshold reads how many have to acknowledge an update: all who may set one,
// where it says nothing.
func (im *marbleRunImport) threshold(root value) {
	holders := 0
	for _, u := range im.m.Users {
		if slices.ContainsFunc(u.Roles, func(r string) bool { return slices.Contains(im.m.Roles[r].Actions, manifest.UpdateManifest) }) {
			holders++
		}
	}
	v := root.get("Config").get("UpdateThreshold")
	n, set := v.count()
	number := holders
	if set && n > 0 {
		number = int(min(n, uint64(holders)))
	}
	const path = "approvals.updateManifest"
	switch {
	case number < 2:
		v.note(Maps, path, "one user suffices")
		return
	case number > maxApprovals:
		im.decide(path, "there %d people had to acknowledge an update; here at most %d can be asked for", number, maxApprovals)
		number = maxApprovals
	}
	im.m.Approvals = map[string]int{manifest.UpdateManifest: number}
	everybody := fmt.Sprintf("all %d users with UpdateManifest", number)
	switch config := root.get("Config"); {
	case v.present():
		v.maps(path)
	case config.present():
		config.absent("UpdateThreshold", Maps, path, everybody)
	default:
		root.absent("Config", Maps, path, everybody)
	}
}

// recovery reads who holds shares. A holder has to be a user here, so that his
// signature can be told from others'.
func (im *marbleRunImport) recovery(root value, users *namer) {
	keys := root.get("RecoveryKeys")
	threshold := root.get("Config").get("RecoveryThreshold")
	if keys.empty() {
		keys.note(Dropped, "", "empty")
		threshold.note(Dropped, "", "there are no recovery keys")
		return
	}
	out := manifest.Recovery{Keys: map[string]string{}}
	for _, k := range keys.members() {
		name := users.name(k.name)
		out.Keys[name] = k.text()
		k.note(Maps, join("recovery.keys", name), renamed(k.name, name))
		if _, user := im.m.Users[name]; !user {
			im.decide(join("recovery.keys", name), "%s names no user: a holder of a share is a user here", k.path)
		}
	}
	out.Threshold = len(out.Keys)
	if n, set := threshold.count(); set && n > 0 {
		out.Threshold = int(min(n, maxApprovals))
		threshold.maps("recovery.threshold")
	} else {
		threshold.note(Maps, "recovery.threshold", "all of them")
	}
	im.m.Recovery = &out
}

// config reads the settings that people() left.
func (im *marbleRunImport) config(c value) {
	if v := c.get("SealMode"); v.present() {
		modes := map[string]manifest.SealMode{"": manifest.SealProduct, "ProductKey": manifest.SealProduct, "UniqueKey": manifest.SealUnique, "Disabled": manifest.SealNone}
		mode, known := modes[v.text()]
		switch {
		case !known:
			v.note(Dropped, "", "no such mode: one of "+fmt.Sprint(slices.Sorted(maps.Keys(modes))[1:]))
		case mode == manifest.SealNone:
			v.note(Maps, "seal", "state is kept, and recovery shares or an external KMS alone open it; there nothing was kept")
		default:
			v.maps("seal")
		}
		im.m.Seal = mode
	}
	for _, f := range []struct{ name, why string }{
		{"FeatureGates", "features are not switched by the manifest; a counter is a secret of type counter"},
		{"RotateRootSecret", "there is no root secret: rotation or onUpdate of each secret says when it is replaced"},
	} {
		c.get(f.name).note(NoCounterpart, "", f.why)
	}
}
