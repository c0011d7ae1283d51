package binding

import (
	"bytes"
	"encoding/hex"

	"github.com/ashlar-mesh/ashlar/attest"
)

// source is where the compared values come from.
const source = "claims buffer"

// Expect compares claims with what this session demands of them. Every field
// that either has gives a step: a field that only one has differs. Codes:
// ATT-071 purpose, ATT-072 nonce (replayed), ATT-073 exporter (relayed), ATT-074
// key, ATT-075 root, ATT-076 manifest, ATT-077 checkpoint, ATT-050 devices,
// ATT-078 floors, LOG-013 log, SEC-015 key for secrets, INC-023 rules that are lifted.
func Expect(want, got Claims) []attest.Step {
	steps := []attest.Step{
		{
			Code: "ATT-071", Field: "binding.purpose", OK: want.Purpose == got.Purpose,
			Want: string(want.Purpose), Got: string(got.Purpose), Source: source,
			Fix: attest.Fix{Who: attest.Nobody, How: "evidence made for one purpose serves no other"},
		},
		{
			Code: "ATT-074", Field: "binding.key", OK: want.PublicKey == got.PublicKey,
			Want: hex.EncodeToString(want.PublicKey[:]), Got: hex.EncodeToString(got.PublicKey[:]), Source: source,
			Fix: attest.Fix{Who: attest.Nobody, How: "the evidence vouches for another key"},
		},
	}
	wants, gots := want.fields(), got.fields()
	for i, w := range wants {
		g := gots[i].value
		if len(w.value) == 0 && len(g) == 0 {
			continue
		}
		steps = append(steps, attest.Step{
			Code: w.code, Field: "binding." + w.name, OK: bytes.Equal(w.value, g),
			Want: orAbsent(w.value), Got: orAbsent(g), Source: source, Fix: fixes[w.name],
		})
	}
	for i := range steps {
		steps[i] = steps[i].Holding(steps[i].OK)
	}
	return steps
}

var fixes = map[string]attest.Fix{
	"nonce":       {Who: attest.Nobody, How: "replayed: the evidence answers another challenge"},
	"exporter":    {Who: attest.Nobody, How: "relayed: the evidence was made for another TLS session; connect without a proxy that ends TLS"},
	"root":        {Who: attest.Nobody, How: "the evidence vouches for another root certificate"},
	"manifest":    {Who: attest.Operator, How: "the evidence was made under another manifest; ask again"},
	"devices":     {Who: attest.Nobody, How: "a device was added, left out or exchanged after the TEE vouched for them"},
	"floors":      {Who: attest.Operator, How: "the evidence was made under other floors; ask again"},
	"checkpoint":  {Who: attest.Operator, How: "the evidence was made at another state of the log; ask again"},
	"log":         {Who: attest.Nobody, How: "the evidence speaks for another log"},
	"break-glass": {Who: attest.Nobody, How: "the statement hides or invents rules that are lifted for a while"},
	"upload":      {Who: attest.Nobody, How: "secrets would be encrypted to a key that is not the coordinator's"},
}

func orAbsent(b []byte) string {
	if len(b) == 0 {
		return "(absent)"
	}
	return hex.EncodeToString(b)
}
