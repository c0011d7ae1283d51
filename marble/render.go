package marble

import (
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Rendered are parameters with their templates filled in. Env and Files hold
// secrets: nothing prints them.
type Rendered struct {
	Argv  []string          // replaces the arguments after argv[0]; nil: the manifest gives none
	Env   []string          // KEY=value, sorted
	Files map[string][]byte // by absolute path

	lasting map[string]string // of Env by name, and Argv under "argv": what a renewal does not change
}

// String names what was rendered, without any value.
func (r *Rendered) String() string { return redacted }

// GoString is String.
func (r *Rendered) GoString() string { return redacted }

// Render fills the parameters that the coordinator sent with the lease in hand.
// The error is MRB-011 and names the parameter, and no value.
func (m *Marble) Render() (*Rendered, error) {
	m.mu.Lock()
	lease, parameters := m.lease, m.parameters
	m.mu.Unlock()
	if revoked := m.Revoked(); revoked != nil {
		return nil, revoked
	}
	data := m.data(lease)
	r := &Rendered{Files: make(map[string][]byte, len(parameters.Files)), lasting: map[string]string{}}
	for i, text := range parameters.Argv {
		arg, err := manifest.Render(text, data)
		if err != nil {
			return nil, problem.Because(err, "MRB-011", "argv[%d]", i)
		}
		if strings.ContainsRune(arg, 0) {
			return nil, problem.New("MRB-011", "argv[%d] would hold a zero byte: use hex or base64", i)
		}
		r.Argv = append(r.Argv, arg)
		if !fleeting(text) {
			r.lasting["argv"] += arg + "\x00"
		}
	}
	for name, text := range parameters.Env {
		value, err := manifest.Render(text, data)
		if err != nil {
			return nil, problem.Because(err, "MRB-011", "env %q", name)
		}
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return nil, problem.New("MRB-011", "env %q is no name, or would hold a zero byte: use hex or base64", name)
		}
		r.Env = append(r.Env, name+"="+value)
		if !fleeting(text) {
			r.lasting[name] = value
		}
	}
	slices.Sort(r.Env)
	for path, text := range parameters.Files {
		content, err := manifest.Render(text, data)
		if err != nil {
			return nil, problem.Because(err, "MRB-011", "file %q", path)
		}
		r.Files[path] = []byte(content)
	}
	return r, nil
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
