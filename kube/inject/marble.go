package inject

import (
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// FromManifest returns what the manifest says of one marble. KUB-051 without a
// name, KUB-052 if it has no such marble.
func FromManifest(m *manifest.Manifest, name string) (Marble, error) {
	if name == "" {
		return Marble{}, problem.New("KUB-051", "the label %s is empty: wanted the name of a marble in the manifest", Label)
	}
	spec, ok := m.Marbles[name]
	if !ok {
		names := manifest.MarbleNames(m)
		e := problem.New("KUB-052", "the manifest in force has no marble %.64q; it has %s", name, few(names))
		if near := nearest.Word(name, names); near != "" {
			e.Detail += ": did you mean " + near + "?"
		}
		return Marble{}, e
	}
	out := Marble{Name: name, TEEs: teesOf(m.Packages[spec.Package]), Argv: len(spec.Parameters.Argv) > 0}
	for _, p := range spec.Serves {
		out.Ports = append(out.Ports, int32(p.Port))
	}
	slices.Sort(out.Ports)
	out.Ports = slices.Compact(out.Ports)
	return out, nil
}

// teesOf lists the TEEs that a package names reference values for, sorted.
func teesOf(p attest.Package) []string {
	var tees []string
	add := func(there bool, names ...attest.TEE) {
		for _, n := range names {
			if there {
				tees = append(tees, string(n))
			}
		}
	}
	add(p.SGX != nil, attest.SGX)
	add(p.SNP != nil, attest.SNP)
	add(p.TDX != nil, attest.TDX)
	add(p.Sim != nil, attest.SimSGX, attest.SimTDX)
	add(p.Azure != nil && p.Azure.SNP != nil, attest.SNPAzure)
	add(p.Azure != nil && p.Azure.TDX != nil, attest.TDXAzure)
	add(p.TPM != nil, attest.TPM)
	for tee := range p.Plugins {
		add(true, tee)
	}
	slices.Sort(tees)
	return tees
}

// few lists names for a message that stays readable.
func few(names []string) string {
	const most = 8
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return strings.Join(names[:most], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}
