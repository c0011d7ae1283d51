package attest

import (
	"maps"
	"slices"
	"strings"
)

// deviceSteps judges what a device claims against the reference of its name.
func (p Policy) deviceSteps(name string, c Claims) []Step {
	k := check{source: section("packages", p.PackageName) + ".devices." + name}
	r := p.Package.Devices[name]
	switch {
	case r.NVIDIA != nil && c.TEE == NVIDIA:
		k.debug(c, p.Package.AllowDebug)
		k.gpu(c, r.NVIDIA)
	default:
		k.add(Step{Code: CodeNoReference, Field: string(c.TEE), Want: "reference values for " + string(c.TEE), Got: "none",
			Fix: Fix{ManifestAuthor, "name the kind of device under devices"}})
	}
	return k.steps
}

// gpu judges a GPU of NVIDIA.
func (k *check) gpu(c Claims, r *GPUReference) {
	var got GPUClaims
	if c.GPU != nil {
		got = *c.GPU
	}
	k.word(Step{Code: CodeMeasurement, Field: "nvidia.architecture", Got: got.Architecture, Fix: fixSoftware}, r.Architectures)
	k.word(Step{Code: CodeMeasurement, Field: "nvidia.driver", Got: got.Driver, Fix: fixSoftware}, r.Drivers)
	k.word(Step{Code: CodeMeasurement, Field: "nvidia.vbios", Got: got.VBIOS, Fix: fixSoftware}, r.VBIOS)
	for _, index := range sortedKeys(r.Measurements) {
		k.oneOf("nvidia.measurements."+index, notNil(r.Measurements[index]), got.Measurements[index])
	}
	rim := Step{Code: CodeMeasurement, Field: "nvidia.measurements", OK: got.RIMChecked || len(r.Measurements) > 0,
		Want: "held against the vendor's reference values (RIM) or the package's", Got: "NOT checked",
		Fix: Fix{ManifestAuthor, "name the measurements in the package, or allow unchecked ones"}}
	k.unchecked(rim, r.AllowUncheckedMeasurements, "allowUncheckedMeasurements")
	ocsp := Step{Code: CodeNoRevocation, Field: "nvidia.revocation", OK: got.OCSPChecked,
		Want: "the vendor's word (OCSP) on the device's certificates", Got: "NOT checked",
		Fix: Fix{ManifestAuthor, "allow unchecked revocation, if that is acceptable"}}
	k.unchecked(ocsp, r.AllowUncheckedRevocation, "allowUncheckedRevocation")
}

// unchecked adds a step about something that may be left unchecked.
func (k *check) unchecked(s Step, allowed bool, rule string) {
	if s.OK {
		s.Got = "checked"
	} else if allowed {
		s.OK, s.Want = true, s.Want+", or nothing ("+rule+")"
	}
	k.add(s)
}

// word compares what a claim says with the accepted words; nil accepts any.
func (k *check) word(s Step, accepted []string) {
	if accepted == nil {
		return
	}
	s.OK, s.Want = s.Got != "" && slices.Contains(accepted, s.Got), strings.Join(accepted, " or ")
	if len(accepted) == 0 {
		s.Want = "none: the list of accepted values is empty"
	}
	if s.Got == "" {
		s.Got = "absent"
	}
	k.add(s)
}

// notNil makes an absent list one that accepts nothing: the name of a register
// without values is a demand that nothing meets.
func notNil(accepted []Hex) []Hex {
	if accepted == nil {
		return []Hex{}
	}
	return accepted
}

func sortedKeys[K ~string, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
