package importer

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// kept is a secret of the source that has a counterpart here. It comes into the
// manifest when somebody reads it.
type kept struct {
	name   string // here
	from   value
	secret manifest.Secret
	reads  map[string]bool // marbles, by their names here
}

// secretBook knows every secret of the source: those that are kept, and why the
// others are not.
type secretBook struct {
	job   *job
	names *namer
	kept  map[string]*kept  // by name in the source
	why   map[string]string // by name in the source: why there is none here
	order []string
}

func newSecretBook(j *job) *secretBook {
	return &secretBook{job: j, names: secretNames(), kept: map[string]*kept{}, why: map[string]string{}}
}

func (b *secretBook) keep(source string, from value, s manifest.Secret) *kept {
	k := &kept{name: b.names.name(source), from: from, secret: s, reads: map[string]bool{}}
	b.kept[source] = k
	b.order = append(b.order, source)
	return k
}

// givenAgain is what becomes of a value that people brought.
const givenAgain = "give it its value again: ashlar secret set"

// lack records a secret that can't be had here.
func (b *secretBook) lack(source string, from value, why string) {
	b.why[source] = why
	from.leave(NoCounterpart, why)
	b.job.decide("secrets", "%s has no secret here: %s; set it by another way, or let the coordinator make one", from.path, why)
}

// read makes a marble a reader of the secrets that its parameters use.
func (b *secretBook) read(marble string, uses []string) {
	for _, use := range uses {
		b.kept[use].reads[marble] = true
	}
}

// release writes the secrets that somebody reads.
func (b *secretBook) release() {
	for _, source := range b.order {
		k := b.kept[source]
		if len(k.reads) == 0 {
			k.from.leave(Dropped, "no parameter of a marble names it: nobody would read it")
			continue
		}
		if b.job.m.Secrets == nil {
			b.job.m.Secrets = make(map[string]manifest.Secret)
		}
		k.secret.Readers = slices.Sorted(maps.Keys(k.reads))
		b.job.m.Secrets[k.name] = k.secret
		if k.secret.Type == manifest.Opaque {
			b.job.decide("secrets."+k.name, "%s comes from a person: %s", k.from.path, givenAgain)
		}
		k.from.maps("secrets." + k.name)
	}
}

// converted is text of the source as a template of a manifest.
type converted struct {
	text   string
	uses   []string // secrets, by their names in the source
	why    string   // not empty: it can't be converted
	remark string   // what is not quite the same
}

// literal is text that stays as it is.
func literal(s string) converted {
	if strings.Contains(s, "{{") {
		return converted{why: "it holds {{, which begins an action here"}
	}
	return converted{text: s}
}

// append adds a part. Text that ends in a brace can't stand before another.
func (c converted) append(next converted) converted {
	switch {
	case c.why != "":
		return c
	case next.why != "":
		return next
	case strings.HasSuffix(c.text, "{") && strings.HasPrefix(next.text, "{"):
		return converted{why: "it holds {{, which begins an action here"}
	}
	return converted{text: c.text + next.text, uses: append(c.uses, next.uses...), remark: cmp.Or(c.remark, next.remark)}
}

// parameters collects what one marble gets.
type parameters struct {
	job    *job
	book   *secretBook
	marble string // its name here
	out    manifest.Parameters
}

// take accounts for one parameter and reports whether it is kept.
func (p *parameters) take(v value, c converted, target string) bool {
	path := join("marbles", p.marble) + ".parameters." + target
	if c.why != "" {
		v.note(NoCounterpart, "", c.why)
		p.job.decide(path, "%s was left out: %s", v.path, c.why)
		return false
	}
	v.note(Maps, path, c.remark)
	if v.is(jsonpos.Object) {
		for _, f := range []string{"Data", "Encoding", "NoTemplates"} {
			v.get(f).maps(path)
		}
	}
	p.book.read(p.marble, c.uses)
	return true
}

func (p *parameters) env(name string, v value, c converted) {
	if c.why == "" && !environmentName.MatchString(name) {
		c.why = "the name of the variable has other than letters, digits and _"
	}
	if p.take(v, c, join("env", name)) {
		if p.out.Env == nil {
			p.out.Env = make(map[string]string)
		}
		p.out.Env[name] = c.text
	}
}

func (p *parameters) file(path string, v value, c converted) {
	if c.why == "" && (!filePath.MatchString(path) || len(path) > 512) {
		c.why = "a file has an absolute path here, without empty parts"
	}
	if p.take(v, c, join("files", path)) {
		if p.out.Files == nil {
			p.out.Files = make(map[string]string)
		}
		p.out.Files[path] = c.text
	}
}

// argv takes all arguments or none: with one missing the rest would mean
// something else.
func (p *parameters) argv(v value, args []converted) {
	all := converted{}
	var texts []string
	for _, a := range args {
		texts = append(texts, a.text)
		all.uses = append(all.uses, a.uses...)
		if all.why == "" {
			all.why = a.why
		}
	}
	if len(texts) > 0 && p.take(v, all, "argv") {
		p.out.Argv = texts
	}
}
