package apiv1

import (
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// PlanRequest is POST /v1/plan: what is assumed instead of what is. Absent
// fields stay as they are; the empty request judges the fleet as of now.
type PlanRequest struct {
	// Manifest is the bytes of another manifest, as for PUT /v1/manifest.
	Manifest []byte `json:"manifest,omitempty"`
	// Endorsements replace, wherever evidence was judged with them, the
	// documents of the same kind about the same thing: TCB info of a platform
	// family, a CA's revocation list. One without a chain is taken to be of the
	// signer of the document that it replaces.
	Endorsements []attest.Endorsement `json:"endorsements,omitempty"`
	// At is when the fleet attests; absent is now.
	At time.Time `json:"at,omitzero"`
	// Floors are raised on top of those in force, by name of the platform; "*"
	// stands for every platform.
	Floors map[string]attest.Floor `json:"floors,omitempty"`
}

// Outcomes of a plan.
const (
	Loses = "loses" // has an identity, and would be refused
	Gains = "gains" // was or would be refused, and would be accepted
)

// Plan answers a PlanRequest.
type Plan struct {
	At       time.Time  `json:"at"`       // when the fleet was taken to attest
	Manifest attest.Hex `json:"manifest"` // digest of the one that was judged by
	// Instances with a live lease, and refusals whose evidence is kept.
	Instances int `json:"instances"`
	Refusals  int `json:"refusals"`
	Keeps     int `json:"keeps"` // instances that would be accepted
	Loses     int `json:"loses"`
	Gains     int `json:"gains"` // refusals, and instances that were to lose their identity
	// Effects are who loses and who gains, those who lose first; at most 1,000.
	Effects []PlanEffect `json:"effects"`
	More    int          `json:"more,omitempty"` // effects that are not listed
	// Changes are what is assumed, in words: of the manifest and of the floors.
	Changes []string `json:"changes"`
	// Unused are endorsements of the request that no kept evidence was judged
	// with: their identity, or their kind where they cannot be read.
	Unused []string `json:"unused,omitempty"`
	// Unjudged are instances whose evidence is not at hand; at most 100.
	Unjudged []string `json:"unjudged,omitempty"`
}

// PlanEffect is what becomes of one instance, or of one refusal.
type PlanEffect struct {
	Outcome  string     `json:"outcome"`
	Marble   string     `json:"marble"`
	Instance string     `json:"instance"`
	Decision string     `json:"decision"` // that the evidence is of
	TEE      attest.TEE `json:"tee"`
	// Already says that this outcome does not come from what is assumed: the
	// instance would be refused without it too.
	Already bool   `json:"already,omitempty"`
	Code    string `json:"code,omitempty"`   // of the first check that would not hold; of the one that held back who gains
	Reason  string `json:"reason,omitempty"` // one line about it
	// Failed are the checks that would not hold, with who can mend each; at most
	// 16.
	Failed []attest.Step `json:"failed,omitempty"`
	// Renewal is when the instance attests next, and is refused; NotAfter is when
	// its identity ends at the latest. Absent for refusals.
	Renewal  time.Time `json:"renewal,omitzero"`
	NotAfter time.Time `json:"notAfter,omitzero"`
}

// Basis is GET /v1/decisions/{marble}/{id}/basis: what a decision was made from.
type Basis struct {
	Decision     string              `json:"decision"`
	At           time.Time           `json:"at"`
	Manifest     attest.Hex          `json:"manifest"` // digest of the one in force then
	Revision     int                 `json:"revision"`
	Policy       attest.Policy       `json:"policy"` // of the marble then, with the floor of its platform
	Evidence     attest.Evidence     `json:"evidence"`
	ClaimsBuffer []byte              `json:"claimsBuffer"` // as it came
	Expected     []byte              `json:"expected"`     // claims buffer as the session demanded it
	Endorsements attest.Endorsements `json:"endorsements"`
	// Verdict is what judging it again gives, byte for byte the decision's.
	Verdict attest.Verdict `json:"verdict"`
}
