package attest

import (
	"fmt"
	"strings"
	"time"
)

// TCBGap says how a part of the platform stands against the best level that the
// vendor lists for it.
type TCBGap struct {
	Part   string    `json:"part"`   // "platform", "qe" or "module"
	Met    TCBStatus `json:"met"`    // status of the level that the part meets; "" for none
	Best   TCBStatus `json:"best"`   // status of the level that it is compared with
	Date   string    `json:"date"`   // tcbDate of that level, RFC 3339
	Closes []string  `json:"closes"` // advisories that reaching it ends, sorted
	// Relaunch says that the TDX module that runs now is at that level: only the
	// guest was started under an older one (TEE_TCB_SVN2 of a TD 1.5 body).
	Relaunch bool `json:"relaunch,omitempty"`
	// Below are the components that are too low for it, in the vendor's order.
	Below []TCBComponent `json:"below"`
}

// TCBComponent is a component that is below a level.
type TCBComponent struct {
	Name     string `json:"name"`               // the vendor's: "SEAMLDR ACM"; else "component 7"
	Category string `json:"category,omitempty"` // who loads it, by the vendor: "BIOS" or "OS/VMM"
	Has      uint16 `json:"has"`
	Needs    uint16 `json:"needs"`
}

// PCESVN is the name of the provisioning certification enclave's version among
// components.
const PCESVN = "PCESVN"

// String returns the comparison in words.
func (c TCBComponent) String() string {
	return fmt.Sprintf("%s is %d, the level needs %d", c.Name, c.Has, c.Needs)
}

// Words returns every component that is too low, in words.
func (g TCBGap) Words() string {
	words := make([]string, len(g.Below))
	for i, c := range g.Below {
		words[i] = c.String()
	}
	return strings.Join(words, "; ")
}

// level names the level that the part is compared with.
func (g TCBGap) level() string {
	s := string(g.Best)
	if at, err := time.Parse(time.RFC3339, g.Date); err == nil {
		s += " since " + at.UTC().Format(time.DateOnly)
	}
	if len(g.Closes) > 0 {
		s += ", which ends " + strings.Join(g.Closes, ", ")
	}
	return s
}

// step breaks a status that is not accepted down to one part.
func (g TCBGap) step(tee TEE) Step {
	s := Step{Code: CodeTCBStatus, Field: "tcb." + g.Part, Want: g.level(), Got: g.Words(), Source: g.source(), Fix: g.fix(tee)}
	if g.Met == "" {
		s.Code = CodeTCBLevel
	}
	return s
}

func (g TCBGap) source() string {
	if g.Part == "qe" {
		return KindQEIdentity
	}
	return KindTCBInfo
}

// fix says who brings the part to its best level. A guest's owner reaches
// nothing below the guest: what the host's system loads is its provider's.
func (g TCBGap) fix(tee TEE) Fix {
	switch {
	case g.Relaunch:
		return Fix{ServiceOwner, "start the guest again: the TDX module that runs now is at that level"}
	case g.Part == "qe":
		return Fix{HostOwner, "install the vendor's current quoting enclave (DCAP) on the host"}
	case g.Part == "module":
		return Fix{CloudProvider, "have the host load the vendor's current TDX module, then start the guest again"}
	}
	var bios, system, pce, other []string
	for _, c := range g.Below {
		switch {
		case c.Name == PCESVN:
			pce = append(pce, c.Name)
		case strings.HasPrefix(c.Category, "BIOS"):
			bios = append(bios, c.Name)
		case c.Category != "":
			system = append(system, c.Name)
		default:
			other = append(other, c.Name)
		}
	}
	var how []string
	add := func(what string, names []string) {
		if len(names) > 0 {
			how = append(how, what+" ("+strings.Join(names, ", ")+")")
		}
	}
	add("install the machine vendor's current BIOS", bios)
	add("have the host's system load the vendor's current packages", system)
	add("install the vendor's current provisioning certification enclave (DCAP) on the host", pce)
	unnamed := "install the machine vendor's current BIOS"
	if strings.Contains(string(g.Met), "Configuration") {
		unnamed += " and configure it as the advisories say"
	}
	add(unnamed, other)
	who := HostOwner
	if beneath(tee) == TDX && len(bios)+len(pce)+len(other) == 0 {
		who = CloudProvider
	}
	return Fix{who, strings.Join(how, "; ") + "; then provision the platform again"}
}

// statusFix says who can have a status that is not accepted become another.
func statusFix(s TCBStatus) Fix {
	accept := ", or have the manifest's author accept " + string(s)
	switch s {
	case "":
		return Fix{HostOwner, "update BIOS, microcode and the vendor's software: the vendor lists no level this low"}
	case Revoked:
		return Fix{Nobody, "the vendor has revoked this platform: move to another machine"}
	case SWHardeningNeeded:
		return Fix{ServiceOwner, "build the software with the mitigations that the advisories name, and have the manifest's author accept " + string(s)}
	case ConfigurationNeeded:
		return Fix{HostOwner, "configure the machine as the advisories say, such as without hyper-threading" + accept}
	case ConfigurationAndSWHardeningNeeded:
		return Fix{HostOwner, "configure the machine and build the software as the advisories say" + accept}
	case OutOfDateConfigurationNeeded:
		return Fix{HostOwner, "update BIOS and microcode and configure the machine as the advisories say" + accept}
	}
	return Fix{HostOwner, "update BIOS and microcode" + accept}
}
