package inject

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/ashlar-mesh/ashlar/attest"
)

// knownTEEs are what ASHLAR_TEE may say.
var knownTEEs = []attest.TEE{attest.SGX, attest.SNP, attest.TDX, attest.SNPAzure, attest.TDXAzure, attest.TPM, attest.CCA, attest.SimSGX, attest.SimTDX}

// hostPathTypes are those that a profile may demand.
var hostPathTypes = []string{"", "Directory", "DirectoryOrCreate", "File", "Socket", "CharDevice"}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// row judges one profile: each refusal is KUB-063 and names the field.
type row struct {
	r    *refusals
	name string
	Profile
}

func (p Profile) check(r *refusals, name string) {
	w := row{r, name, p}
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		w.wrong("", "the name %.64q: wanted lower-case letters, digits, dots and hyphens", name)
	}
	if !slices.Contains(knownTEEs, attest.TEE(p.TEE)) {
		w.wrong("tee", "%.64q: wanted one of %v", p.TEE, knownTEEs)
	}
	switch {
	case p.Runtime != Wrap && p.Runtime != Image:
		w.wrong("runtime", "%.64q: wanted %q or %q", p.Runtime, Wrap, Image)
	case p.Runtime == Wrap && p.TEE == string(attest.SGX):
		w.wrong("runtime", "%q contradicts tee %q: an enclave's start is measured, so nothing can be put before it", Wrap, p.TEE)
	}
	if len(p.Resources)+len(p.NodeLabels)+len(p.Tolerations)+len(p.HostPaths)+len(p.Annotations)+len(p.Env) > maxEntries {
		w.wrong("", "more than %d entries", maxEntries)
		return
	}
	w.resources()
	w.scheduling()
	w.hostPaths()
	w.words()
}

func (w row) wrong(field, format string, args ...any) {
	at := "profiles." + w.name
	if field != "" {
		at += "." + field
	}
	w.r.add("KUB-063", at+": "+format, args...)
}

func (w row) resources() {
	for _, name := range slices.Sorted(maps.Keys(w.Resources)) {
		field := "resources." + name
		if !strings.Contains(name, "/") || len(validation.IsQualifiedName(name)) > 0 {
			w.wrong(field, "wanted the name of a device's resource, such as sgx.intel.com/enclave")
		}
		if q, err := resource.ParseQuantity(w.Resources[name]); err != nil || !whole(q) {
			w.wrong(field, "%.64q: wanted a whole number above zero", w.Resources[name])
		}
	}
	e := w.EPC
	if e == nil {
		return
	}
	if w.TEE != string(attest.SGX) {
		w.wrong("epc", "contradicts tee %q: only enclaves have EPC memory", w.TEE)
	}
	if !strings.Contains(e.Name, "/") || len(validation.IsQualifiedName(e.Name)) > 0 {
		w.wrong("epc.name", "%.64q: wanted the name of a resource, such as sgx.intel.com/epc", e.Name)
	}
	if _, twice := w.Resources[e.Name]; twice {
		w.wrong("epc.name", "%.64q is among resources too", e.Name)
	}
	if e.Unit != unitBytes && e.Unit != unitMiB {
		w.wrong("epc.unit", "%.64q: wanted %q or %q", e.Unit, unitBytes, unitMiB)
	}
	if _, err := e.quantity(e.Default); err != nil {
		w.wrong("epc.default", "%v", err)
	}
}

func (w row) scheduling() {
	if w.RuntimeClass != "" && len(validation.IsDNS1123Subdomain(w.RuntimeClass)) > 0 {
		w.wrong("runtimeClass", "%.64q is no name of a RuntimeClass", w.RuntimeClass)
	}
	if w.RuntimeClass != "" && w.Privileged {
		w.wrong("privileged", "contradicts runtimeClass %q: a pod with a VM of its own needs no devices of the node", w.RuntimeClass)
	}
	for _, key := range slices.Sorted(maps.Keys(w.NodeLabels)) {
		if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(w.NodeLabels[key])) > 0 {
			w.wrong("nodeLabels", "%.64q: %.64q is no label", key, w.NodeLabels[key])
		}
	}
	for i, key := range w.Tolerations {
		if len(validation.IsQualifiedName(key)) > 0 || slices.Contains(w.Tolerations[:i], key) {
			w.wrong("tolerations", "%.64q: wanted each taint's key once", key)
		}
	}
}

func (w row) hostPaths() {
	for i, h := range w.HostPaths {
		switch {
		case !path.IsAbs(h.Path) || path.Clean(h.Path) != h.Path || strings.ContainsAny(h.Path, ":\x00") || len(h.Path) > 256:
			w.wrong("hostPaths", "%.64q: wanted an absolute, clean path", h.Path)
		case h.Path == "/" || within(h.Path, ashlarDir):
			w.wrong("hostPaths", "%.64q would hide what the container needs", h.Path)
		case !slices.Contains(hostPathTypes, h.Type):
			w.wrong("hostPaths", "%s has the type %.64q: wanted one of %q", h.Path, h.Type, hostPathTypes)
		case slices.ContainsFunc(w.HostPaths[:i], func(o HostPath) bool { return o.Path == h.Path }):
			w.wrong("hostPaths", "%s comes twice", h.Path)
		}
	}
}

// words judges annotations and variables.
func (w row) words() {
	for _, key := range slices.Sorted(maps.Keys(w.Annotations)) {
		if len(validation.IsQualifiedName(strings.ToLower(key))) > 0 || strings.HasPrefix(key, "ashlar.dev/") || len(w.Annotations[key]) > 1024 {
			w.wrong("annotations", "%.64q: wanted the name of an annotation that is not Ashlar's, and at most 1024 bytes", key)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.Env)) {
		if !envName.MatchString(name) || len(w.Env[name]) > 1024 {
			w.wrong("env", "%.64q: wanted the name of a variable, and at most 1024 bytes", name)
		}
		if strings.HasPrefix(name, "ASHLAR_") && name != simSocket {
			w.wrong("env", "%s is the injector's to set", name)
		}
	}
	if _, simulated := w.Env[simSocket]; simulated != attest.TEE(w.TEE).Simulated() {
		w.wrong("env", "tee %q and %s contradict each other: a simulation needs its platform's socket, and nothing else has one", w.TEE, simSocket)
	}
}

// Units of EPCResource.
const (
	unitBytes = "bytes"
	unitMiB   = "MiB"
)

// quantity turns a size such as 64Mi into what the resource is counted in.
func (e EPCResource) quantity(size string) (resource.Quantity, error) {
	q, err := resource.ParseQuantity(size)
	if err != nil || !whole(q) || q.Value() > 1<<40 {
		return q, fmt.Errorf("%.32q: wanted a size such as 64Mi, at most 1Ti", size)
	}
	if e.Unit == unitMiB {
		const mebi = 1 << 20
		return *resource.NewQuantity((q.Value()+mebi-1)/mebi, resource.DecimalSI), nil
	}
	return q, nil
}

// whole says whether q is an integer above zero.
func whole(q resource.Quantity) bool {
	return q.Sign() > 0 && q.Cmp(*resource.NewQuantity(q.Value(), resource.DecimalSI)) == 0
}

// within says whether p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
