package manifest

import (
	"fmt"
	"maps"
	"slices"
	"testing"
)

// campaign simulates what users bring about by one revision after the other, each
// of which they have to settle under the one before it.
type campaign struct {
	t       *testing.T
	m       *Manifest
	agreed  []string // who they act as
	changed bool
}

// try puts a revision in force if they settle it, and reports it.
func (c *campaign) try(change func(m *Manifest)) bool {
	next := &Manifest{Packages: c.m.Packages, Platforms: maps.Clone(c.m.Platforms), Marbles: maps.Clone(c.m.Marbles), Secrets: maps.Clone(c.m.Secrets),
		Users: maps.Clone(c.m.Users), Roles: maps.Clone(c.m.Roles), Approvals: maps.Clone(c.m.Approvals), Recovery: c.m.Recovery, Coordinators: c.m.Coordinators}
	change(next)
	demands := Demands(c.m, next)
	if len(demands) == 0 || Settled(c.m, demands, c.agreed) != nil {
		return false
	}
	c.m, c.changed = next, true
	return true
}

// could reports whether they settle a revision, without setting it.
func (c *campaign) could(change func(m *Manifest)) bool {
	before := *c
	ok := c.try(change)
	*c = before
	return ok
}

// run gets all rights that can be got.
func run(t *testing.T, m *Manifest, users ...string) *campaign {
	small := &Manifest{Packages: m.Packages, Platforms: m.Platforms, Marbles: m.Marbles, Secrets: m.Secrets, Users: m.Users, Roles: m.Roles, Approvals: m.Approvals, Recovery: m.Recovery, Coordinators: m.Coordinators}
	c := &campaign{t: t, m: small, agreed: slices.Clone(users), changed: true}
	for c.changed {
		c.changed = false
		for _, role := range []string{"one", "two", "three", "fresh"} {
			c.try(func(m *Manifest) {
				m.Roles[role] = Role{Actions: []string{UpdateManifest, "readSecret:*", BreakGlass, "raiseFloor:*"}}
			})
		}
		for _, user := range append(slices.Clone(worldUsers), "dave", "eve", "mallory", "oscar") {
			if c.try(func(m *Manifest) {
				m.Users[user] = User{Certificate: "of theirs", Roles: slices.Sorted(maps.Keys(m.Roles))}
			}) && !slices.Contains(c.agreed, user) {
				c.agreed = append(c.agreed, user)
			}
		}
		for right := range c.m.Approvals {
			c.try(func(m *Manifest) { delete(m.Approvals, right) })
		}
	}
	return c
}

func (c *campaign) holders(right string) bool {
	n := 0
	for _, user := range c.agreed {
		if c.m.May(user, right) {
			n++
		}
	}
	return n >= Needed(c.m, right)
}

// releases reports whether they get a secret to others.
func (c *campaign) releases(secret string, original *Manifest, users []string) bool {
	if r := original.Recovery; r != nil {
		shares := 0
		for _, user := range users {
			if r.Keys[user] != "" {
				shares++
			}
		}
		if shares >= r.Threshold {
			return true
		}
	}
	s := c.m.Secrets[secret]
	changes := []func(m *Manifest){
		func(m *Manifest) {
			s.Readers = append(slices.Clone(s.Readers), "another")
			m.Secrets[secret] = s
		},
		func(m *Manifest) { m.Recovery = &Recovery{Keys: map[string]string{"x": "of theirs"}, Threshold: 1} },
		func(m *Manifest) { m.Coordinators = &Coordinators{Package: "theirs"} },
	}
	accepted := func(pkg, platform string) {
		changes = append(changes, func(m *Manifest) {
			p := m.Packages[pkg]
			p.AllowDebug = !p.AllowDebug
			m.Packages = maps.Clone(m.Packages)
			m.Packages[pkg] = p
		}, func(m *Manifest) {
			p := m.Platforms[platform]
			p.Endorsements.MaxAge++
			m.Platforms[platform] = p
		})
	}
	if c := original.Coordinators; c != nil {
		accepted(c.Package, c.Platform)
	}
	for _, reader := range s.Readers {
		mb := c.m.Marbles[reader]
		alter := func(f func(mb *Marble)) {
			changes = append(changes, func(m *Manifest) {
				mb := mb
				f(&mb)
				m.Marbles[reader] = mb
			})
		}
		alter(func(mb *Marble) { mb.Package = "theirs" })
		alter(func(mb *Marble) { mb.Platform = "theirs" })
		alter(func(mb *Marble) { mb.Parameters.Argv = []string{"theirs"} })
		accepted(mb.Package, mb.Platform)
	}
	return slices.ContainsFunc(changes, c.could) || c.holders(BreakGlass) || c.holders(ReadSecret+secret) && s.Type != Counter && s.Operations == nil
}

// TestPowersAreWhatRevisionsDo holds what is said of single people and of pairs
// against campaigns of theirs.
func TestPowersAreWhatRevisionsDo(t *testing.T) {
	w := newWorld(t, 6)
	released, together, refused := 0, 0, 0
	for range 300 {
		m := w.manifest(t)
		users := slices.Sorted(maps.Keys(m.Users))
		campaigns := make(map[string]*campaign)
		for i, user := range users {
			campaigns[user] = run(t, m, user)
			for _, other := range users[i+1:] {
				campaigns[user+" and "+other] = run(t, m, user, other)
			}
		}
		for secret := range m.Secrets {
			var alone, pairs []string
			for i, user := range users {
				if campaigns[user].releases(secret, m, []string{user}) {
					alone = append(alone, user)
				}
				for _, other := range users[i+1:] {
					both := user + " and " + other
					if campaigns[both].releases(secret, m, []string{user, other}) && !campaigns[user].releases(secret, m, []string{user}) && !campaigns[other].releases(secret, m, []string{other}) {
						pairs = append(pairs, both)
					}
				}
			}
			answer := mustAsk(t, m, nil, "which single person could release %s", secret)
			same(t, m, answer, subjects(answer, FactCould), alone)
			answer = mustAsk(t, m, nil, "which two people could release %s", secret)
			same(t, m, answer, subjects(answer, FactCould), pairs)
			released, together, refused = released+len(alone), together+len(pairs), refused+len(users)-len(alone)
		}
		changersOf(t, m, users)
		for _, platform := range []string{"default", "strict"} {
			raisersOf(t, m, platform, campaigns)
		}
		openersOf(t, m, users, campaigns)
	}
	if released < 60 || together < 5 || refused < 60 {
		t.Errorf("%d released a secret alone, %d pairs did, %d did not: the world is too much the same", released, together, refused)
	}
}

// changersOf decides for each path whether a user settles it alone.
func changersOf(t *testing.T, m *Manifest, users []string) {
	t.Helper()
	paths := []string{"tests", "approvals", "recovery", "coordinators", "seal", "ca", "proposalLifetime", "witnesses/x"}
	for _, name := range append([]string{"p", "q", "strict", "default", "one", "k1", "dave", "other"}, append(worldMarbles, worldUsers...)...) {
		for _, section := range []string{"packages", "platforms", "users", "roles"} {
			paths = append(paths, section+"/"+name)
		}
		paths = append(paths, "marbles/"+name+"/calls", "marbles/"+name+"/package", "marbles/"+name+"/parameters", "secrets/"+name+"/readers", "secrets/"+name+"/type")
	}
	var want []string
	for _, user := range users {
		if slices.ContainsFunc(paths, func(path string) bool { return Settled(m, []Demand{newDemand(path, nil)}, []string{user}) == nil }) {
			want = append(want, user)
		}
	}
	answer := mustAsk(t, m, nil, "which single person could change the manifest")
	same(t, m, answer, subjects(answer, FactCould), want)
}

func raisersOf(t *testing.T, m *Manifest, platform string, campaigns map[string]*campaign) {
	t.Helper()
	var want []string
	for _, user := range slices.Sorted(maps.Keys(m.Users)) {
		c := campaigns[user]
		if c.holders(RaiseFloor+platform) || c.could(func(m *Manifest) {
			p := m.Platforms[platform]
			p.Endorsements.MaxAge++
			m.Platforms[platform] = p
		}) {
			want = append(want, user)
		}
	}
	answer := mustAsk(t, m, nil, "which single person could raise the floor of %s", platform)
	same(t, m, answer, subjects(answer, FactCould), want)
}

// openersOf adds every call that a user may add.
func openersOf(t *testing.T, m *Manifest, users []string, campaigns map[string]*campaign) {
	t.Helper()
	marbles := MarbleNames(m)
	for _, from := range marbles[:1] {
		for _, to := range marbles[1:] {
			if len(paths(m, from, to)) > 0 {
				continue
			}
			var want []string
			for _, user := range users {
				c := campaigns[user]
				opens := slices.ContainsFunc(marbles, func(source string) bool {
					if source == to || source != from && len(paths(m, from, source)) == 0 {
						return false
					}
					return c.holders(BreakGlass) || c.could(func(m *Manifest) {
						mb := m.Marbles[source]
						mb.Calls = append(slices.Clone(mb.Calls), Call{Marble: to, Port: "tcp", Listen: 1})
						m.Marbles[source] = mb
					})
				})
				if opens {
					want = append(want, user)
				}
			}
			answer := mustAsk(t, m, nil, "which single person could let %s reach %s", from, to)
			same(t, m, answer, subjects(answer, FactCould), want)
		}
	}
}

// TestPowersInWords reads a few answers.
func TestPowersInWords(t *testing.T) {
	m := governed(t)
	m.raw = sample(t)
	m.Secrets["sessionKey"] = Secret{Type: Symmetric, Readers: []string{"web"}}
	m.Recovery.Threshold = 3
	for _, c := range []struct {
		name  string
		roles map[string]string // by user: the actions
		ask   string
		want  string
	}{
		{"two of two", map[string]string{"alice": "updateManifest", "bob": "updateManifest"}, "which single person could release sessionKey", "no single person could release sessionKey"},
		{"two of two together", map[string]string{"alice": "updateManifest", "bob": "updateManifest"}, "which two people could release sessionKey", "alice with bob could release sessionKey together"},
		{"who sees it", map[string]string{"alice": "readSecret:sessionKey"}, "which single person could release sessionKey", "alice could release sessionKey alone"},
		{"no one", map[string]string{"alice": "backup"}, "which two people could release sessionKey", "no two people could release sessionKey together"},
		{"with a number", map[string]string{"alice": "updateManifest", "bob": "updateManifest"}, "who has updateManifest:packages/web", "alice and bob have updateManifest:packages/web; 2 have to agree"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.Users, m.Roles = map[string]User{}, map[string]Role{}
			for user, action := range c.roles {
				m.Users[user] = User{Roles: []string{user}}
				m.Roles[user] = Role{Actions: []string{action}}
			}
			m.Approvals = map[string]int{UpdateManifest: 2}
			if a, err := Ask(m, nil, c.ask); err != nil || a.Summary != c.want {
				t.Errorf("got %q, %v, want %q", a.Summary, err, c.want)
			}
		})
	}
}

// TestManyUsersAreCheap asks who could release a secret of many users.
func TestManyUsersAreCheap(t *testing.T) {
	m := governed(t)
	m.raw = sample(t)
	m.Approvals = map[string]int{UpdateManifest: 3}
	for i := range 250 {
		name := fmt.Sprint("u", i)
		m.Users[name] = User{Roles: []string{name[:min(3, len(name))]}}
		m.Roles[name[:min(3, len(name))]] = Role{Actions: []string{"updateManifest:users/" + name, "updateManifest:packages/*"}}
	}
	for _, q := range []string{"which single person could release sessionKey", "which two people could release sessionKey", "which single person could change the manifest"} {
		if _, err := Ask(m, nil, q); err != nil {
			t.Error(err)
		}
	}
}
