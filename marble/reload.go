package marble

import (
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// maxCommand bounds the words of a reload command.
const maxCommand = 64

// readParameters reads what the coordinator sent. A signal that is none of the
// three, or a command that is too long, is MRB-009.
func readParameters(p *marblepb.Parameters) (manifest.Parameters, error) {
	r := p.GetReload()
	switch r.GetSignal() {
	case "", "HUP", "USR1", "USR2":
	default:
		return manifest.Parameters{}, problem.New("MRB-009", "reload signal %.16q, wanted HUP, USR1 or USR2", r.GetSignal())
	}
	if len(r.GetCommand()) > maxCommand {
		return manifest.Parameters{}, problem.New("MRB-009", "reload command of %d words, wanted at most %d", len(r.GetCommand()), maxCommand)
	}
	return manifest.Parameters{Argv: p.GetArgv(), Env: p.GetEnv(), Files: p.GetFiles(),
		Reload:     manifest.Reload{Signal: r.GetSignal(), Command: r.GetCommand()},
		References: manifest.References{Env: places(p.GetReferenceEnv()), Files: places(p.GetReferenceFiles())}}, nil
}

// places are the secrets that references in each place may name.
func places(sent map[string]*marblepb.Names) map[string][]string {
	if len(sent) == 0 {
		return nil
	}
	all := make(map[string][]string, len(sent))
	for place, names := range sent {
		all[place] = names.GetNames()
	}
	return all
}

// Reload returns what the manifest in force wants to follow when files were
// replaced.
func (m *Marble) Reload() manifest.Reload {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.parameters.Reload
}

// fleeting reports whether what a template gives changes at each renewal, so
// that a program which got it at its start knows that it does not last.
func fleeting(template string) bool {
	for _, field := range []string{".Marble.Certificate", ".Marble.Chain", ".Marble.PrivateKey"} {
		if strings.Contains(template, field) {
			return true
		}
	}
	return false
}

// Outdated returns the names of the variables, and "argv", that a program which
// was started with r does not have as they are now; parts of the marble's own
// certificate and key are left out, since they change at each renewal.
func (r *Rendered) Outdated(now *Rendered) []string {
	var names []string
	for name, value := range now.lasting {
		if old, ok := r.lasting[name]; !ok || old != value {
			names = append(names, name)
		}
	}
	for name := range r.lasting {
		if _, ok := now.lasting[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
