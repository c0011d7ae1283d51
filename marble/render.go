package marble

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble/reference"
)

// Rendered are parameters with their templates filled in. Env and Files hold
// secrets: nothing prints them.
type Rendered struct {
	Argv  []string          // replaces the arguments after argv[0]; nil: the manifest gives none
	Env   []string          // KEY=value, sorted
	Files map[string][]byte // by absolute path
	// Referred are those of Files that stand in for references of the host's.
	Referred []string
	// Plain are files of the host's, which hold no reference; by absolute path.
	Plain map[string][]byte

	lasting map[string]string // of Env by name, and Argv under "argv": what a renewal does not change
}

// String names what was rendered, without any value.
func (r *Rendered) String() string { return redacted }

// GoString is String.
func (r *Rendered) GoString() string { return redacted }

// Render fills the parameters that the coordinator sent with the lease in hand.
// The error is MRB-011 and names the parameter, and no value. References that the
// host gives are not looked for.
func (m *Marble) Render() (*Rendered, error) { return m.RenderFound(nil) }

// RenderFound is Render with the references that find finds, given the parameters
// that say where they may stand. Its errors are passed on; MRB-066 is a reference
// to a secret that does not fit its place.
func (m *Marble) RenderFound(find func(manifest.Parameters) (reference.Found, error)) (*Rendered, error) {
	m.mu.Lock()
	lease, parameters := m.lease, m.parameters
	m.mu.Unlock()
	if revoked := m.Revoked(); revoked != nil {
		return nil, revoked
	}
	r := &Rendered{Files: make(map[string][]byte, len(parameters.Files)), lasting: map[string]string{}}
	data := m.data(lease)
	if err := r.parameters(parameters, data); err != nil {
		return nil, err
	}
	if find != nil {
		found, err := find(parameters)
		if err != nil {
			return nil, err
		}
		if err := r.references(found, data); err != nil {
			return nil, err
		}
	}
	slices.Sort(r.Env)
	return r, nil
}

// parameters renders what the manifest gives.
func (r *Rendered) parameters(p manifest.Parameters, data manifest.TemplateData) error {
	for i, text := range p.Argv {
		arg, err := manifest.Render(text, data)
		if err != nil {
			return problem.Because(err, "MRB-011", "argv[%d]", i)
		}
		if strings.ContainsRune(arg, 0) {
			return problem.New("MRB-011", "argv[%d] would hold a zero byte: use hex or base64", i)
		}
		r.Argv = append(r.Argv, arg)
		if !fleeting(text) {
			r.lasting["argv"] += arg + "\x00"
		}
	}
	for name, text := range p.Env {
		value, err := manifest.Render(text, data)
		if err != nil {
			return problem.Because(err, "MRB-011", "env %q", name)
		}
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return problem.New("MRB-011", "env %q is no name, or would hold a zero byte: use hex or base64", name)
		}
		r.Env = append(r.Env, name+"="+value)
		if !fleeting(text) {
			r.lasting[name] = value
		}
	}
	for path, text := range p.Files {
		content, err := manifest.Render(text, data)
		if err != nil {
			return problem.Because(err, "MRB-011", "file %q", path)
		}
		r.Files[path] = []byte(content)
	}
	return nil
}

// references puts secrets into the places of their references.
func (r *Rendered) references(found reference.Found, data manifest.TemplateData) error {
	for name, ref := range found.Env {
		value, err := resolve(ref, data, true)
		if err != nil {
			return problem.Because(err, "MRB-066", "variable %s", name)
		}
		r.Env = append(r.Env, name+"="+value)
		r.lasting[name] = value
	}
	for path, ref := range found.Files {
		content, err := resolve(ref, data, false)
		if err != nil {
			return problem.Because(err, "MRB-066", "file %s", path)
		}
		r.Files[path] = []byte(content)
		r.Referred = append(r.Referred, path)
	}
	r.Plain = found.Plain
	return nil
}

func resolve(ref reference.Reference, data manifest.TemplateData, variable bool) (string, error) {
	text, err := ref.Template(data.Secrets[ref.Secret], variable)
	if err != nil {
		return "", err
	}
	value, err := manifest.Render(text, data)
	if err != nil && variable {
		err = fmt.Errorf("%w: use base64 or hex", err)
	}
	return value, err
}

// data is what templates see.
func (m *Marble) data(l *Lease) manifest.TemplateData {
	d := manifest.TemplateData{
		Marble: manifest.MarbleData{
			Name: m.cfg.Marble, SPIFFEID: l.SPIFFEID, Instance: m.cfg.ID,
			Certificate: [][]byte{l.Chain[0].Raw}, PrivateKey: manifest.NewPrivate(l.keyDER()),
		},
		Root:    [][]byte{l.Bundle[0].Raw},
		Secrets: make(map[string]manifest.SecretData, len(l.secrets)),
	}
	for _, c := range l.Chain {
		d.Marble.Chain = append(d.Marble.Chain, c.Raw)
	}
	for _, c := range l.Bundle {
		d.Bundle = append(d.Bundle, c.Raw)
	}
	for name, s := range l.secrets {
		d.Secrets[name] = s.data()
	}
	return d
}
