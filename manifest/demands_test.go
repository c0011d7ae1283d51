package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// partTable says for every field of the document which part it belongs to: "1"
// is the field itself, "2" the entry, "3" the entry's field. A field that is not
// here fails the test below until somebody has decided who may change it.
var partTable = map[string]string{
	"version": "1", "trustDomain": "1", "packages": "2", "platforms": "2", "marbles": "3", "secrets": "3", "users": "2", "roles": "2",
	"tests": "1", "approvals": "1", "proposalLifetime": "1", "recovery": "1", "seal": "1", "coordinators": "1", "ca": "1", "witnesses": "2",

	"marbles.package": "3", "marbles.platform": "3", "marbles.lease": "3", "marbles.maxInstances": "3", "marbles.dnsNames": "3",
	"marbles.serves": "3", "marbles.calls": "3", "marbles.parameters": "3", "marbles.renewal": "3",

	"secrets.type": "3", "secrets.bits": "3", "secrets.scope": "3", "secrets.readers": "3", "secrets.onUpdate": "3", "secrets.commonName": "3",
	"secrets.dnsNames": "3", "secrets.validity": "3", "secrets.organization": "3", "secrets.ipAddresses": "3", "secrets.extendedKeyUsages": "3",
	"secrets.operations": "3", "secrets.rotation": "3", "secrets.depositors": "3",
}

// partOf is the part that a value belongs to, by the table.
func partOf(t *testing.T, at []string) string {
	t.Helper()
	if at[0] == "$schema" {
		return NotesPath
	}
	depth, known := partTable[at[0]]
	if known && depth == "3" {
		depth, known = partTable[at[0]+"."+at[2]]
	}
	if !known {
		t.Fatalf("%v belongs to no part: decide who may change it, and write it into partTable", at)
	}
	return strings.Join(at[:depth[0]-'0'], "/")
}

// mutator alters one value after the other, in the order in which it meets them.
type mutator struct {
	t     *testing.T
	left  int // values to pass over
	at    []string
	found []string // where it altered something
}

func (u *mutator) hit() bool {
	u.left--
	if u.left != -1 {
		return false
	}
	u.found = slices.Clone(u.at)
	return true
}

func (u *mutator) in(name string, f func()) {
	u.at = append(u.at, name)
	f()
	u.at = u.at[:len(u.at)-1]
}

// walk visits a value that can be set.
func (u *mutator) walk(v reflect.Value) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		if u.hit() {
			v.Set(reflect.ValueOf(v.Interface().(time.Time).Add(time.Hour)))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		u.fields(v)
	case reflect.Pointer:
		u.pointer(v)
	case reflect.Map:
		u.entries(v)
	case reflect.Slice:
		u.items(v)
	case reflect.Bool:
		if u.hit() {
			v.SetBool(!v.Bool())
		}
	case reflect.String:
		if u.hit() {
			v.SetString(v.String() + "x")
		}
	case reflect.Int, reflect.Int64:
		if u.hit() {
			v.SetInt(v.Int() + 1)
		}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if u.hit() {
			v.SetUint(v.Uint() ^ 1)
		}
	default:
		u.t.Fatalf("%v: a %s is not known to this test", u.at, v.Kind())
	}
}

func (u *mutator) fields(v reflect.Value) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-" && field.Name == "AllowUncheckedRevocation": // for judging archives; no manifest has it
		case name == "-":
			u.t.Fatalf("%v: a manifest cannot set %s, and no demand would name it", u.at, field.Name)
		case name == "":
			u.in(field.Name, func() { u.walk(v.Field(i)) })
		default:
			u.in(name, func() { u.walk(v.Field(i)) })
		}
	}
}

func (u *mutator) pointer(v reflect.Value) {
	switch {
	case v.IsNil():
		if u.hit() {
			v.Set(reflect.New(v.Type().Elem()))
		}
	case u.hit():
		v.SetZero()
	default:
		u.walk(v.Elem())
	}
}

func (u *mutator) entries(v reflect.Value) {
	if len(u.at) > 1 {
		if u.hit() {
			if v.IsNil() {
				v.Set(reflect.MakeMap(v.Type()))
			}
			v.SetMapIndex(reflect.ValueOf("added").Convert(v.Type().Key()), reflect.Zero(v.Type().Elem()))
			return
		}
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, key := range keys {
		u.in(key.String(), func() {
			if len(u.at) > 2 && u.hit() {
				v.SetMapIndex(key, reflect.Value{})
				return
			}
			entry := reflect.New(v.Type().Elem()).Elem()
			entry.Set(v.MapIndex(key))
			u.walk(entry)
			v.SetMapIndex(key, entry)
		})
	}
}

func (u *mutator) items(v reflect.Value) {
	switch n := v.Len(); {
	case u.hit():
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		return
	case n > 0 && u.hit():
		v.Set(v.Slice(0, n-1))
		return
	case n > 1 && !reflect.DeepEqual(v.Index(0).Interface(), v.Index(n-1).Interface()) && u.hit():
		first := reflect.ValueOf(v.Index(0).Interface())
		v.Index(0).Set(v.Index(n - 1))
		v.Index(n - 1).Set(first)
		return
	}
	for i := range v.Len() {
		u.in(fmt.Sprint(i), func() { u.walk(v.Index(i)) })
	}
}

// everyField is a manifest that has every field.
func everyField(t *testing.T) *Manifest {
	t.Helper()
	m := mustParse(t, ruled(everyPackage(), everyPlatform()))
	other := mustParse(t, sample(t))
	m.Schema, m.Marbles, m.Secrets, m.Users, m.Roles, m.Tests = other.Schema, other.Marbles, other.Secrets, other.Users, other.Roles, other.Tests
	web := m.Marbles["web"]
	web.Renewal = Renewal{DegradeAfter: 1, DrainAfter: 2, CutAfter: 3}
	web.Parameters.Reload = Reload{Signal: "HUP", Command: []string{"a", "b"}}
	web.Parameters.References = References{Env: map[string][]string{"E": {"full"}}, Files: map[string][]string{"/f": {"full"}}}
	m.Marbles["web"] = web
	m.Secrets["full"] = Secret{Type: Opaque, Bits: 1, Scope: Shared, Readers: []string{"web", "db"}, OnUpdate: "keep", CommonName: "c", DNSNames: []string{"d"}, Validity: 1,
		Organization: []string{"o"}, IPAddresses: []string{"10.0.0.1"}, ExtendedKeyUsages: []string{"serverAuth"}, Operations: []Operation{Sign, Encrypt},
		Rotation: Rotation{Every: 1, Overlap: 2}, Depositors: []string{"web"}}
	m.Approvals = map[string]int{UpdateManifest: 2, "updateManifest:packages/*": 3}
	m.Recovery = &Recovery{Keys: map[string]string{"alice": "age1"}, Threshold: 1}
	m.Coordinators = &Coordinators{Package: "p", Platform: DefaultPlatform}
	m.Seal, m.Witnesses = SealProduct, map[string]Witness{"w": {Key: "k", URL: "u"}}
	return m
}

func copied(t *testing.T, m *Manifest) *Manifest {
	t.Helper()
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	c := new(Manifest)
	if err := json.Unmarshal(raw, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func demanded(old, new *Manifest) []string {
	var paths []string
	for _, d := range Demands(old, new) {
		paths = append(paths, d.Path)
	}
	return paths
}

// TestEveryFieldIsDemandedByItsPath alters every value that a manifest can hold,
// one at a time, through the types themselves.
func TestEveryFieldIsDemandedByItsPath(t *testing.T) {
	m := copied(t, everyField(t))
	if got := demanded(m, copied(t, m)); got != nil {
		t.Fatalf("the same manifest demands %v", got)
	}
	seen := make(map[string]bool)
	for n := 0; ; n++ {
		altered := copied(t, m)
		u := &mutator{t: t, left: n}
		u.walk(reflect.ValueOf(altered).Elem())
		if u.found == nil {
			if n < 300 {
				t.Errorf("only %d values were altered", n)
			}
			break
		}
		want := partOf(t, u.found)
		seen[u.found[0]] = true
		if len(u.found) > 2 && strings.HasPrefix(partTable[u.found[0]], "3") {
			seen[u.found[0]+"."+u.found[2]] = true
		}
		for i, pair := range [][2]*Manifest{{m, altered}, {altered, m}} {
			if i > 0 && n%16 > 0 {
				break // what is added one way is removed the other
			}
			all := Demands(pair[0], pair[1])
			if len(all) != 1 || all[0].Path != want {
				t.Errorf("%v: got %v, want %s", u.found, all, want)
			}
			for _, d := range all {
				if len(d.Changes) == 0 || d.Rights[0] != UpdateManifest+":"+want {
					t.Errorf("%v: got %+v", u.found, d)
				}
			}
		}
	}
	for field := range partTable {
		if !seen[field] {
			t.Errorf("%s is in partTable, and no value of it was altered", field)
		}
	}
}

// TestEntriesAreDemandedWhole adds and removes entries: of marbles and secrets
// every field is demanded, given or not.
func TestEntriesAreDemandedWhole(t *testing.T) {
	m := copied(t, everyField(t))
	for section, remove := range map[string]func(m *Manifest){
		"packages/p": func(m *Manifest) { delete(m.Packages, "p") }, "platforms/default": func(m *Manifest) { delete(m.Platforms, "default") },
		"users/alice": func(m *Manifest) { delete(m.Users, "alice") }, "roles/operator": func(m *Manifest) { delete(m.Roles, "operator") },
		"witnesses/w": func(m *Manifest) { delete(m.Witnesses, "w") }, "recovery": func(m *Manifest) { m.Recovery = nil }, "coordinators": func(m *Manifest) { m.Coordinators = nil },
		"marbles/db": func(m *Manifest) { delete(m.Marbles, "db") }, "secrets/cartTLS": func(m *Manifest) { delete(m.Secrets, "cartTLS") },
	} {
		less := copied(t, m)
		remove(less)
		kind, _, _ := strings.Cut(section, "/")
		want := []string{section}
		if partTable[kind] == "3" {
			want = nil
			for field := range partTable {
				if name, ok := strings.CutPrefix(field, kind+"."); ok {
					want = append(want, section+"/"+name)
				}
			}
			slices.Sort(want)
		}
		for _, pair := range [][2]*Manifest{{m, less}, {less, m}} {
			got := demanded(pair[0], pair[1])
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", section, got, want)
			}
		}
	}
}

// TestDemandsAreWhatDiffers holds the demands of random pairs of manifests
// against their values, field by field.
func TestDemandsAreWhatDiffers(t *testing.T) {
	w := newWorld(t, 5)
	for range 300 {
		old, now := w.manifest(t), w.manifest(t)
		want := make(map[string]bool)
		compare := func(path string, a, b any) {
			if !reflect.DeepEqual(a, b) {
				want[path] = true
			}
		}
		entries(old.Packages, now.Packages, func(name string, a, b any) { compare("packages/"+name, a, b) })
		entries(old.Platforms, now.Platforms, func(name string, a, b any) { compare("platforms/"+name, a, b) })
		entries(old.Users, now.Users, func(name string, a, b any) { compare("users/"+name, a, b) })
		entries(old.Roles, now.Roles, func(name string, a, b any) { compare("roles/"+name, a, b) })
		compare("approvals", old.Approvals, now.Approvals)
		compare("recovery", old.Recovery, now.Recovery)
		compare("coordinators", old.Coordinators, now.Coordinators)
		inner := func(section string) func(name string, a, b any) {
			return func(name string, a, b any) {
				va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
				for i, field := range fieldsOf(va.Type()) {
					if va.IsZero() || vb.IsZero() || !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
						want[section+"/"+name+"/"+field] = true
					}
				}
			}
		}
		entries(old.Marbles, now.Marbles, inner("marbles"))
		entries(old.Secrets, now.Secrets, inner("secrets"))
		got := demanded(old, now)
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
			t.Fatalf("got %v\nwant %v\n%s\nbefore\n%s", got, slices.Sorted(maps.Keys(want)), now.raw, old.raw)
		}
	}
}

// entries calls f for the entries of both maps that are not equal.
func entries[V any](a, b map[string]V, f func(name string, a, b any)) {
	for _, name := range union(a, b) {
		if !reflect.DeepEqual(a[name], b[name]) || len(a) != len(b) && (!has(a, name) || !has(b, name)) {
			f(name, a[name], b[name])
		}
	}
}

func has[V any](m map[string]V, name string) bool { _, ok := m[name]; return ok }
