package attest

import (
	"fmt"
	"time"
)

// judgeDevices judges each device that belongs to the evidence, and that they
// are exactly those that the package names. That the TEE vouched for them shows
// in its claims buffer, which the caller compares.
func (out *Verdict) judgeDevices(v Verifiers, e Evidence, en Endorsements, p Policy, at time.Time) {
	if len(e.Devices) == 0 && len(p.Package.Devices) == 0 {
		return
	}
	k := check{source: section("packages", p.PackageName)}
	if len(e.Devices) > MaxDevices {
		k.add(Step{Code: CodeDevice, Field: "devices", Want: fmt.Sprintf("at most %d", MaxDevices), Got: fmt.Sprint(len(e.Devices)),
			Fix: Fix{ServiceOwner, "attach only the devices that the package names"}})
		out.Steps = append(out.Steps, k.steps...)
		return
	}
	seen := map[string]bool{}
	for _, d := range e.Devices {
		field := "devices." + d.Name
		if _, named := p.Package.Devices[d.Name]; !named || seen[d.Name] {
			k.add(Step{Code: CodeDevice, Field: field, Want: "a device that the package names, once", Got: fmt.Sprintf("%.64q", d.Name),
				Fix: Fix{ManifestAuthor, "name the device in the package's devices, if the service may use it"}})
			continue
		}
		seen[d.Name] = true
		dv := JudgeDevice(v, d, en, p, at)
		s := deviceStep(field, dv)
		if other := sameDevice(out.Devices, dv); s.OK && other != "" {
			s.OK, s.Want, s.Got = false, "a device of its own", "the same device as "+other
			s.Fix = Fix{ServiceOwner, "attach the evidence of each device once, under its own name"}
		}
		out.Devices = append(out.Devices, dv)
		k.add(s)
	}
	for _, name := range sortedKeys(p.Package.Devices) {
		if !seen[name] {
			k.add(Step{Code: CodeDevice, Field: "devices." + name, Want: "evidence of this device", Got: "absent",
				Fix: Fix{ServiceOwner, "have the device make evidence and attach it (ashlar-marble run --device)"}})
		}
	}
	out.Steps = append(out.Steps, k.steps...)
}

// JudgeDevice makes the verdict over one device by the reference of its name. It
// does not look at what the device's nonce answers: see JudgeUnbound.
func JudgeDevice(v Verifiers, d Device, en Endorsements, p Policy, at time.Time) DeviceVerdict {
	out := DeviceVerdict{Name: d.Name, TEE: d.TEE, Claims: Claims{TEE: d.TEE, TCB: TCBClaims{Advisories: []string{}}}}
	verifier := v[d.TEE]
	if verifier == nil {
		out.Steps = []Step{noVerifierStep(d.TEE)}
		return out
	}
	e := Evidence{TEE: d.TEE, Raw: d.Raw}
	size := sizeStep(e)
	if out.Steps = []Step{size}; !size.OK {
		return out
	}
	c, steps := verifier.Verify(e, en, at)
	c.TEE = d.TEE
	if c.TCB.Advisories == nil {
		c.TCB.Advisories = []string{}
	}
	out.Claims, out.Genuine = c, genuine(steps)
	out.Steps = append(out.Steps, steps...)
	out.Steps = append(out.Steps, p.deviceSteps(d.Name, c)...)
	return out
}

// sameDevice names an earlier device of the same serial number, or nothing: one
// device must not stand for two, even by two reports.
func sameDevice(earlier []DeviceVerdict, d DeviceVerdict) string {
	for _, e := range earlier {
		if e.TEE == d.TEE && e.Claims.GPU != nil && d.Claims.GPU != nil && e.Claims.GPU.Serial == d.Claims.GPU.Serial {
			return e.Name
		}
	}
	return ""
}

// deviceStep sums a device's verdict up among the steps of the whole.
func deviceStep(field string, d DeviceVerdict) Step {
	s := Step{Code: CodeDevice, Field: field, OK: true, Want: "accepted", Got: "accepted"}
	f := d.Refused()
	if !d.Genuine {
		s.OK, s.Got = false, "not genuine"
	}
	if f != nil {
		s.Code, s.OK, s.Got, s.Fix = f.Code, false, fmt.Sprintf("refused: %s: wanted %s, got %s", f.Field, f.Want, f.Got), f.Fix
	}
	return s
}

func noVerifierStep(t TEE) Step {
	got := string(t)
	if got == "" {
		got = "a format that is not recognised"
	}
	return Step{Code: CodeNoVerifier, Field: "tee", Want: "a TEE that is verified here", Got: got,
		Source: "evidence", Fix: Fix{ServiceOwner, "run on a TEE that this deployment accepts"}}
}
