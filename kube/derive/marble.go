package derive

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// marble is a role with the workloads that run it.
type marble struct {
	name   string
	runs   []*workload
	made   manifest.Marble
	served map[uint16]string // name of the port, by number
	busy   map[uint16]bool   // loopback ports that something of its pods listens on
}

func (m *marble) path(format string, args ...any) string {
	return "marbles." + m.name + "." + fmt.Sprintf(format, args...)
}

var marbleName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// gather makes marbles of the workloads: by their label, else by their name.
func (j *job) gather() {
	byName := map[string]*marble{}
	for _, w := range j.workloads {
		label, labelled := w.labels[inject.Label]
		name := label
		if !labelled {
			name = w.name
		}
		if !marbleName.MatchString(name) {
			name = wellFormed(name)
			if labelled {
				j.decide("marbles."+name, "%s: the label's value is no name of a marble: write %s", w.pod.at("metadata.labels"), name)
			}
		}
		if m := byName[name]; m != nil && !labelled {
			name = free(byName, name+"."+w.namespace, strings.ToLower(w.kind))
		} else if m != nil && m.runs[0].namespace != w.namespace {
			j.decide("marbles."+name, "workloads of the namespaces %s and %s have one identity: what one may, the other may too", m.runs[0].namespace, w.namespace)
		}
		m := byName[name]
		if m == nil {
			m = &marble{name: name, served: map[uint16]string{}, busy: map[uint16]bool{}, made: manifest.Marble{Package: name}}
			byName[name] = m
			j.marbles = append(j.marbles, m)
		}
		m.runs, w.marble = append(m.runs, w), m
		if labelled {
			j.note(w.pod.at("metadata.labels"), importer.Maps, "marbles."+name, "")
		} else {
			j.note(w.at.at("metadata.name"), importer.Maps, "marbles."+name, "the pods need the label %s: %s", inject.Label, name)
		}
	}
	sort.Slice(j.marbles, func(a, b int) bool { return j.marbles[a].name < j.marbles[b].name })
}

func free(taken map[string]*marble, name, kind string) string {
	name = wellFormed(name)
	if taken[name] == nil {
		return name
	}
	for n := 1; ; n++ {
		if next := wellFormed(fmt.Sprintf("%.50s.%s%d", name, kind, n)); taken[next] == nil {
			return next
		}
	}
}

// wellFormed makes a name of a marble or port of any text.
func wellFormed(s string) string {
	s = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			return c
		}
		return '-'
	}, strings.ToLower(s))
	if s = strings.TrimLeft(s, "._-"); s == "" {
		s = "x"
	}
	return s[:min(len(s), 63)]
}

// checkPackages refuses reference values for what is not there.
func (j *job) checkPackages() error {
	var known []string
	for _, m := range j.marbles {
		known = append(known, m.name)
		for _, w := range m.runs {
			known = append(known, w.container().Image)
		}
	}
	for name := range j.o.Packages {
		if !slices.Contains(known, name) {
			slices.Sort(known)
			known = slices.Compact(known)
			return problem.New("KUB-093", "%q is neither a marble nor an image of one: there are %s", name, strings.Join(known[:min(len(known), 20)], ", "))
		}
	}
	return nil
}

// measured returns the reference values that Options have for a marble, and the
// name that they are given by.
func (j *job) measured(m *marble) (attest.Package, string) {
	for _, name := range []string{m.name, m.runs[0].container().Image} {
		if p, ok := j.o.Packages[name]; ok {
			return p, name
		}
	}
	return attest.Package{}, ""
}

// pkg returns the package of a marble. One that was not measured names the TEE,
// where it is known, and no measurement: it is not valid.
func (j *job) pkg(m *marble) commented {
	w := m.runs[0]
	image, at, path := w.container().Image, w.containerAt().at("image"), "packages."+m.name
	if p, name := j.measured(m); name != "" {
		j.note(at, importer.Maps, path, "measured by --image %s", name)
		for _, other := range m.runs[1:] {
			if name == image && other.container().Image != image {
				j.decide(path, "%s runs another image, %s: its measurement is missing", other.at, other.container().Image)
			}
		}
		return commented{Package: p}
	}
	p := commented{Comment: fmt.Sprintf("%.200s was not measured: ashlar inspect FILE --as policy tells what to write here", image)}
	tee, sign := j.tee(m)
	switch tee {
	case "sgx":
		p.SGX = &attest.SGXReference{}
	case "tdx":
		p.TDX = &attest.TDXReference{}
	case "snp":
		p.SNP = &attest.SNPReference{}
	case "sim":
		p.Sim = &attest.SimReference{}
	}
	if sign != "" {
		j.note(w.pod.at("spec"), Guess, path+"."+tee, "the pod asks for %s", sign)
	}
	j.note(at, importer.NoCounterpart, path, "a tag or digest of an image is no measurement: --image %s=FILE", m.name)
	return p
}

// teeSigns are what a pod says of its TEE without Ashlar's annotations.
var teeSigns = []struct{ in, sign, tee string }{
	{"resource", "sgx.intel.com/", "sgx"}, {"resource", "alibabacloud.com/sgx_epc", "sgx"}, {"resource", "kubernetes.azure.com/sgx_epc", "sgx"},
	{"class", "snp", "snp"}, {"class", "tdx", "tdx"},
}

// tee returns the TEE of a package that was not measured, and what it was guessed
// by.
func (j *job) tee(m *marble) (tee, sign string) {
	if j.o.TEE != "" {
		return j.o.TEE, ""
	}
	for _, w := range m.runs {
		if tee := w.notes[inject.TEE]; tee != "" {
			tee, _, _ = strings.Cut(tee, ":")
			return tee, ""
		}
		for _, s := range teeSigns {
			found := s.in == "class" && w.spec.RuntimeClassName != nil && strings.Contains(*w.spec.RuntimeClassName, s.sign)
			for name := range w.container().Resources.Limits {
				found = found || s.in == "resource" && strings.HasPrefix(string(name), s.sign)
			}
			if found {
				return s.tee, s.sign
			}
		}
	}
	return "", ""
}

// wrapped reports whether the injector will put ashlar-marble before a program:
// everywhere but in enclaves, whose image is a marble by itself.
func (j *job) wrapped(m *marble) bool {
	if runtime := m.runs[0].notes[inject.Runtime]; runtime != "" {
		return runtime == inject.Wrap
	}
	if p, name := j.measured(m); name != "" {
		return p.SGX == nil
	}
	tee, _ := j.tee(m)
	return tee != "sgx"
}

// instances says how many may live at once: twice the replicas, since a pod that
// was replaced counts until its lease has ended.
func (j *job) instances(m *marble) {
	total := 0
	for _, w := range m.runs {
		n, at := w.replicas, w.at.at("spec.replicas")
		for _, s := range j.scalers {
			if s.namespace == w.namespace && s.kind == w.kind && s.name == w.name {
				n, at = int(s.max), s.at.at("spec.maxReplicas")
			}
		}
		if n < 0 {
			j.note(w.at.at("spec"), importer.NoCounterpart, m.path("maxInstances"), "how many pods there will be is not known: without a limit, %d", manifest.MaxInstances)
			return
		}
		n, further := max(n, 1), 0
		if w.rolling != nil {
			further = w.rolling(n)
		}
		total += 2*n + further
		j.note(at, importer.Maps, m.path("maxInstances"), "twice %d and %d of a rollout: a pod that was replaced counts until its lease ends", n, further)
	}
	m.made.MaxInstances = min(total, manifest.MaxInstances)
}

// command takes a whole command line over. With arguments alone, the program's
// name is in the image.
func (j *job) command(m *marble) {
	w := m.runs[0]
	c, at := w.container(), w.containerAt()
	argv := append(slices.Clone(c.Command), c.Args...)
	if text := w.notes[inject.Command]; len(c.Command) == 0 && text != "" {
		var given []string
		if json.Unmarshal([]byte(text), &given) != nil || len(given) == 0 {
			j.decide(m.path("parameters.argv"), "%s: the annotation %s is no JSON array of words", w.at, inject.Command)
			return
		}
		argv = append(given, c.Args...)
	} else if len(c.Command) == 0 {
		if j.wrapped(m) {
			j.decide("marbles."+m.name, "%s: the injector cannot see an image's ENTRYPOINT and refuses the pod without it: write the command, or the annotation %s", at, inject.Command)
		}
		if len(c.Args) > 0 {
			j.decide(m.path("parameters.argv"), "%s: the image's ENTRYPOINT comes before the arguments and is not known: until the whole command line is written, the host chooses it", at.at("args"))
		}
		return
	}
	for _, other := range m.runs[1:] {
		if !slices.Equal(other.container().Command, c.Command) || !slices.Equal(other.container().Args, c.Args) {
			j.decide(m.path("parameters.argv"), "%s and %s have different command lines: one marble has one", w.at, other.at)
			return
		}
	}
	for i, word := range argv {
		plain, ok := unescape(word)
		if secretive.MatchString(word) {
			j.decide(m.path("parameters.argv"), "%s: the command line seems to hold a secret, and a manifest is none: make a secret of it and write {{ text .Secrets.NAME }}", at.at("command"))
			return
		}
		if !ok {
			j.decide(m.path("parameters.argv"), "%s: the command line holds a variable or braces: write it with the manifest's templates", at.at("command"))
			return
		}
		argv[i] = plain
	}
	m.made.Parameters.Argv = argv
	j.note(at.at("command"), importer.Stricter, m.path("parameters.argv"), "the host cannot change it any more")
}

// secretive are words of a command line that may hold or precede a secret.
var secretive = regexp.MustCompile(`(?i)passw|secret|token|api-?key|credential|://[^/\s]*:[^/\s]*@`)

// unescape reads a word as the kubelet does. It is false for one that holds a
// variable, or what a manifest would take for a template.
func unescape(word string) (string, bool) {
	plain := strings.ReplaceAll(word, "$$", "\x00")
	if strings.Contains(plain, "$(") || strings.Contains(word, "{{") || strings.Contains(word, "\x00") {
		return "", false
	}
	return strings.ReplaceAll(plain, "\x00", "$"), true
}
