package attest

import (
	"encoding/hex"
	"encoding/json"
	"strings"
)

// Change is one edit of the manifest that would make a failed step hold. It says
// what the edit is, not that it is right: whoever changes reference values for
// software that nobody has looked at lets anything in.
type Change struct {
	Path string `json:"path"`           // "packages.web.sgx.uniqueID"
	Line int    `json:"line,omitempty"` // in the manifest; 0 if that is not at hand or lacks the path
	Op   string `json:"op"`             // "replace" old by new, "add" new to a list or object, "set" to new
	Old  string `json:"old,omitempty"`
	New  string `json:"new"`
	Who  Party  `json:"who"` // the manifest's author
}

// Changes returns the edits of the manifest that would make failed steps of
// packages and platforms hold, in order of the steps. Evidence that is not
// genuine has none, and neither has a step that no manifest should give way to:
// forged, revoked or stale endorsements, an unknown TCB.
func (v Verdict) Changes() []Change {
	var out []Change
	if !v.Genuine {
		return nil
	}
	for _, s := range v.Failed() {
		for _, c := range s.changes(v) {
			c.Who = ManifestAuthor
			out = append(out, c)
		}
	}
	return out
}

func (s Step) changes(v Verdict) []Change {
	kind, name, _ := strings.Cut(s.Source, ".")
	switch {
	case name == "":
		return nil
	case kind == "packages":
		return s.packageChanges(v)
	case kind == "platforms":
		return s.platformChanges(v)
	}
	return nil
}

// minimums are the members that hold the floors of security versions.
var minimums = map[string]string{"sgx.securityVersion": "sgx.minSecurityVersion", "sgx.configSVN": "sgx.minConfigSVN", "snp.guestSVN": "snp.minGuestSVN"}

// permits are the members by which a package allows what is refused otherwise.
var permits = map[string]string{"sgx.keyAttributes": "sgx.allowKeyAttributes", "tdx.septVEDisable": "tdx.allowSEPTVE",
	"snp.policy.migrateMA": "snp.allowMigration", "snp.policy.cxl": "snp.allowCXL"}

func (s Step) packageChanges(v Verdict) []Change {
	path := s.Source + "." + s.member(v.TEE)
	switch {
	case s.Code == CodeDebug && strings.HasSuffix(s.Field, ".debug"):
		return []Change{{Path: s.Source + ".allowDebug", Op: "set", New: "true"}}
	case permits[s.Field] != "":
		return []Change{{Path: s.Source + "." + within(v.TEE, permits[s.Field]), Op: "set", New: "true"}}
	case s.Code == CodeSecurityVersion && minimums[s.Field] != "":
		old, _, _ := strings.Cut(s.Want, " ")
		return []Change{{Path: s.Source + "." + within(v.TEE, minimums[s.Field]), Op: "set", Old: old, New: s.Got}}
	case s.Field == "snp.vmpl":
		return []Change{{Path: path, Op: "set", Old: s.Want, New: s.Got}}
	case s.Code == CodeNoReference && s.Field == referenceKey(v.TEE):
		if reference := referenceOf(v.Claims); reference != "" {
			return []Change{{Path: path, Op: "add", New: reference}}
		}
	case s.Code == CodeMeasurement && (isHex(s.Got) || s.Field == "sgx.productID"):
		if strings.Contains(s.Want, " ") { // of several values, or of none
			return []Change{{Path: path, Op: "add", New: s.Got}}
		}
		return []Change{{Path: path, Op: "replace", Old: s.Want, New: s.Got}}
	}
	return nil
}

// member returns where a package holds what the step compares.
func (s Step) member(t TEE) string {
	if pcr, ok := strings.CutPrefix(s.Field, "tpm.pcr"); ok && pcr != "s" {
		return map[bool]string{true: "azure.pcrs.", false: "tpm.pcrs."}[azure(t)] + strings.TrimPrefix(pcr, ".")
	}
	return within(t, s.Field)
}

// within places a member of the hardware's reference where a package has it for
// the TEE.
func within(t TEE, field string) string {
	if azure(t) && strings.HasPrefix(field, string(beneath(t))+".") {
		return "azure." + field
	}
	return field
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && s != ""
}

// referenceOf returns reference values that name the software of claims.
func referenceOf(c Claims) string {
	var reference any
	switch {
	case c.TEE.Simulated() && c.SGX != nil:
		reference = SimReference{Program: []Hex{c.SGX.UniqueID}}
	case c.TEE.Simulated() && c.TDX != nil:
		reference = SimReference{Program: []Hex{digestIn(c.TDX.MRTD)}}
	case c.TEE == SGX && c.SGX != nil:
		reference = SGXReference{UniqueID: []Hex{c.SGX.UniqueID}}
	case c.TEE == TDX && c.TDX != nil:
		t := c.TDX
		reference = TDXReference{MRTD: []Hex{t.MRTD}, RTMR0: []Hex{t.RTMR0}, RTMR1: []Hex{t.RTMR1}, RTMR2: []Hex{t.RTMR2}, RTMR3: []Hex{t.RTMR3}}
	case c.TEE == SNP && c.SNP != nil:
		reference = SNPReference{Measurement: []Hex{c.SNP.Measurement}}
	default:
		return ""
	}
	b, err := json.Marshal(reference)
	if err != nil {
		return ""
	}
	return string(b)
}

// machines are the lists of a platform that name machines, keys and clouds, by
// the field that they are compared with.
var machines = map[string]string{"snp.chipID": "snp.chipIDs", "snp.signer": "snp.signers", "snp.provider": "snp.providers",
	"tcb.fmspc": "fmspcs", "tcb.ppid": "ppids", "tcb.platformInstanceID": "platformInstanceIDs"}

func (s Step) platformChanges(v Verdict) []Change {
	rules := s.Source + "." + ruleKey(v.TEE) + "."
	switch {
	case s.Field == "tcb.status" && v.TCBStatus != "" && v.TCBStatus != Revoked:
		return []Change{{Path: rules + "acceptedTCBStatuses", Op: "add", New: string(v.TCBStatus)}}
	case s.Field == "tcb.advisories" && !strings.HasPrefix(s.Want, "none of "):
		var out []Change
		open, _, _ := strings.Cut(s.Got, ";")
		for a := range strings.SplitSeq(open, ", ") {
			out = append(out, Change{Path: rules + "acceptedAdvisories", Op: "add", New: a})
		}
		return out
	case s.Field == "snp.smt":
		return []Change{{Path: rules + "allowSMT", Op: "set", New: "true"}}
	case s.Field == "snp.provisionalFirmware":
		return []Change{{Path: rules + "allowProvisionalFirmware", Op: "set", New: "true"}}
	case s.Field == "snp.product" && v.Claims.SNP != nil && v.Claims.SNP.Product != "":
		return snpFloor(rules+"minTCB.", "add", v.Claims.SNP.Product, v.Claims.SNP.ReportedTCB)
	case s.Field == "snp.reportedTCB" && v.Claims.SNP != nil:
		return s.lowered(rules + "minTCB." + v.Claims.SNP.Product)
	case s.Field == "snp.launchTCB" && v.Claims.SNP != nil:
		return snpFloor(rules+"minLaunchTCB.", "set", v.Claims.SNP.Product, v.Claims.SNP.LaunchTCB)
	case machines[s.Field] != "":
		return []Change{{Path: rules + strings.TrimPrefix(machines[s.Field], "snp."), Op: "add", New: s.Got}}
	}
	return nil
}

// ruleKey is where a platform holds its rules for a TEE.
func ruleKey(t TEE) string {
	if t.Simulated() {
		return "sim"
	}
	return string(beneath(t))
}

func snpFloor(list, op, product string, level SNPTCB) []Change {
	floor, err := json.Marshal(level)
	if err != nil {
		return nil
	}
	return []Change{{Path: list + product, Op: op, New: string(floor)}}
}

// lowered lowers the components of a floor that the step found too low.
func (s Step) lowered(floor string) []Change {
	var out []Change
	for part := range strings.SplitSeq(s.Got, "; ") {
		has, old, ok := strings.Cut(part, floorIs)
		name, level, found := strings.Cut(has, " is ")
		if ok && found {
			out = append(out, Change{Path: floor + "." + name, Op: "set", Old: old, New: level})
		}
	}
	return out
}
