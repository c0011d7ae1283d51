package reference

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// maxNamed bounds how many places a refusal names.
const maxNamed = 16

// Host is what the host gives a marble's program.
type Host struct {
	Marble  string   // its name, for the words of a refusal
	Environ []string // KEY=value
	Folder  string   // of files, each below it where it is to be below /; "" for none
}

// Found is what the host gives, with references read.
type Found struct {
	Env   map[string]Reference // by variable
	Files map[string]Reference // by absolute path
	// Plain are files without a reference: what the host gives as it is.
	Plain map[string][]byte
}

// Find reads all of it and holds it against the manifest's parameters. What
// these set themselves wins, and is not looked at. Codes: MRB-063 for what is no
// reference but looks like one, MRB-064 where one is not permitted, MRB-065
// where one is missing, MRB-068 and MRB-069 where the folder cannot be read.
func (h Host) Find(p manifest.Parameters) (Found, error) {
	f := Found{Env: map[string]Reference{}, Files: map[string]Reference{}, Plain: map[string][]byte{}}
	if err := f.variables(h.Environ, p.Env); err != nil {
		return Found{}, err
	}
	if h.Folder != "" {
		content, err := readFolder(h.Folder)
		if err != nil {
			return Found{}, err
		}
		for _, at := range slices.Sorted(maps.Keys(content)) {
			if _, set := p.Files[at]; set {
				continue
			}
			if err := f.file(at, content[at]); err != nil {
				return Found{}, err
			}
		}
	}
	if err := f.permitted(h.Marble, p.References); err != nil {
		return Found{}, err
	}
	return f, f.complete(h, p.References)
}

// variables reads the references of the environment. Ashlar's own variables are
// not for the program.
func (f *Found) variables(environ []string, set map[string]string) error {
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if _, given := set[name]; given || strings.HasPrefix(name, "ASHLAR_") || !strings.Contains(value, Prefix) {
			continue
		}
		r, err := readValue(value)
		if err != nil {
			return problem.Because(err, "MRB-063", "variable %.128q", name)
		}
		f.Env[name] = r
	}
	return nil
}

func readValue(value string) (Reference, error) {
	if !strings.HasPrefix(value, Prefix) {
		return Reference{}, fmt.Errorf("a reference stands inside of longer text: the whole value has to be one")
	}
	r, err := Parse(value)
	if err != nil {
		return Reference{}, fmt.Errorf("%s", problem.From(err).Detail)
	}
	return r, nil
}

// file reads one file: a reference, with at most one line break after it, or
// what the host gives as it is.
func (f *Found) file(at string, content []byte) error {
	text := string(content)
	if !strings.Contains(text, Prefix) {
		f.Plain[at] = content
		return nil
	}
	r, err := readValue(strings.TrimSuffix(text, "\n"))
	if err != nil {
		return problem.Because(err, "MRB-063", "file %.200q", at)
	}
	f.Files[at] = r
	return nil
}

// permitted holds each reference against the manifest, and names all that it
// does not list with what to add.
func (f *Found) permitted(marble string, listed manifest.References) error {
	var named []string
	missing := manifest.References{Env: map[string][]string{}, Files: map[string][]string{}}
	look := func(what string, found map[string]Reference, listed, missing map[string][]string) {
		for _, place := range slices.Sorted(maps.Keys(found)) {
			secret, may := found[place].Secret, listed[place]
			if slices.Contains(may, secret) {
				continue
			}
			named = append(named, fmt.Sprintf("%s %.200q refers to %s", what, place, secret))
			if len(named) <= maxNamed {
				missing[place] = append(slices.Clone(may), secret)
			}
		}
	}
	look("variable", f.Env, listed.Env, missing.Env)
	look("file", f.Files, listed.Files, missing.Files)
	if len(named) == 0 {
		return nil
	}
	more := ""
	if len(named) > maxNamed {
		more = fmt.Sprintf(", and %d more", len(named)-maxNamed)
		named = named[:maxNamed]
	}
	line, err := json.Marshal(missing)
	if err != nil {
		return fmt.Errorf("writing the references to add: %w", err)
	}
	return problem.New("MRB-064", "%s%s, which the manifest does not list", strings.Join(named, ", "), more).
		WithNext("if the program is to have it there, add to marbles.%s.parameters: \"references\": %s", marble, line)
}

// complete refuses a place that the manifest lists and the host left without a
// reference: a value of the host's own would take the secret's place.
func (f *Found) complete(h Host, listed manifest.References) error {
	for _, name := range slices.Sorted(maps.Keys(listed.Env)) {
		if _, found := f.Env[name]; !found {
			return problem.New("MRB-065", "variable %s holds none, and the manifest lists it: want %s", name, wanted(listed.Env[name]))
		}
	}
	for _, at := range slices.Sorted(maps.Keys(listed.Files)) {
		if _, found := f.Files[at]; found {
			continue
		}
		where := "no folder of references is given: --references or ASHLAR_REFERENCES"
		if h.Folder != "" {
			where = path.Join(h.Folder, at) + " holds none"
		}
		return problem.New("MRB-065", "file %s: %s, and the manifest lists it: want %s", at, where, wanted(listed.Files[at]))
	}
	return nil
}

// wanted writes the references that may stand in a place.
func wanted(secrets []string) string {
	var all []string
	for _, s := range secrets {
		all = append(all, Reference{Secret: s}.String())
	}
	return strings.Join(all, " or ")
}
