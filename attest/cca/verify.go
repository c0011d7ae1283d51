package cca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	_ "crypto/sha256" // linked into crypto.Hash
	_ "crypto/sha512" // linked into crypto.Hash
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/ashlar-mesh/ashlar/attest"
)

var (
	fixToken    = attest.Fix{Who: attest.Nobody, How: "the token is forged or damaged: ask the realm manager for a new one"}
	fixPlatform = attest.Fix{Who: attest.Operator, How: "run on a platform that this program has an anchor for, or add the anchor and build it anew"}
)

// algorithm is an ECDSA algorithm of COSE (RFC 9053, table 1).
type algorithm struct {
	id   int
	hash crypto.Hash
}

// hashes holds the algorithm of each curve, by its size in bits.
var hashes = map[int]algorithm{256: {-7, crypto.SHA256}, 384: {-35, crypto.SHA384}, 521: {-36, crypto.SHA512}}

// run is one verification.
type run struct {
	steps []attest.Step
	token *token
}

func (r *run) check(s attest.Step, err error) bool {
	r.steps = append(r.steps, s.Outcome(err))
	return err == nil
}

// Verify implements attest.Verifier. It uses no endorsements: what a vendor
// would say of the platform's software, the policy says by register. The time
// does not matter, since tokens and anchors have none.
func (v *Verifier) Verify(e attest.Evidence, _ attest.Endorsements, _ time.Time) (attest.Claims, []attest.Step) {
	r := &run{}
	s := attest.Step{Code: attest.CodeFormat, Field: "token.format", Want: "a CCA token", Got: "platform and realm token", Source: "token", Fix: fixToken}
	t, err := (*token)(nil), fmt.Errorf("larger than %d bytes", attest.MaxEvidence)
	if len(e.Raw) <= attest.MaxEvidence {
		t, err = parse(e.Raw)
	}
	if errors.Is(err, errVersion) {
		s.Code, s.Field = attest.CodeVersion, "token.profile"
	}
	if !r.check(s, err) {
		return attest.Claims{TEE: attest.CCA}, r.steps
	}
	r.token = t
	r.platform(v)
	r.check(attest.Step{Code: attest.CodeQuoteSignature, Field: "realm.signature", Want: "signed by the realm's key", Got: "holds", Source: "realm token", Fix: fixToken},
		t.realmSigned.verify(t.realmKey))
	r.check(attest.Step{Code: attest.CodeQEBinding, Field: "platform.challenge", Want: "the digest of the realm's key", Got: "holds", Source: "platform token", Fix: fixToken},
		t.binds())
	return t.claims(), r.steps
}

// platform checks that a trusted platform signed.
func (r *run) platform(v *Verifier) {
	p := r.token.platform
	name := platformName(p.Implementation, p.Instance)
	key, known := v.anchors[name]
	var err error
	if !known {
		err = errors.New(name)
	}
	s := attest.Step{Code: attest.CodeChain, Field: "platform.anchor", Want: "a platform that is trusted", Got: name, Source: "anchors", Fix: fixPlatform}
	if r.check(s, err) {
		r.check(attest.Step{Code: attest.CodeQESignature, Field: "platform.signature", Want: "signed by the platform's key", Got: "holds",
			Source: "platform token", Fix: fixToken}, r.token.platformSigned.verify(key))
	}
}

// verify checks the signature, by the algorithm that belongs to the key.
func (m sign1) verify(key *ecdsa.PublicKey) error {
	var header struct {
		Algorithm int               `cbor:"1,keyasint"`
		Critical  []cbor.RawMessage `cbor:"2,keyasint"`
	}
	if err := decMode.Unmarshal(m.Protected, &header); err != nil {
		return fmt.Errorf("protected header: %w", err)
	}
	a := hashes[key.Curve.Params().BitSize]
	size := (key.Curve.Params().BitSize + 7) / 8
	switch {
	case header.Algorithm != a.id:
		return fmt.Errorf("algorithm %d, want %d for this key", header.Algorithm, a.id)
	case len(header.Critical) > 0:
		return errors.New("critical headers that are not known here")
	case len(m.Signature) != 2*size:
		return fmt.Errorf("signature of %d bytes, want %d", len(m.Signature), 2*size)
	}
	signed, err := encMode.Marshal([]any{"Signature1", m.Protected, []byte{}, m.Payload})
	if err != nil {
		return err
	}
	h := a.hash.New()
	h.Write(signed)
	if !ecdsa.Verify(key, h.Sum(nil), new(big.Int).SetBytes(m.Signature[:size]), new(big.Int).SetBytes(m.Signature[size:])) {
		return errors.New("does not hold")
	}
	return nil
}

// binds checks that the platform vouches for the realm's key.
func (t *token) binds() error {
	h, ok := map[string]crypto.Hash{"sha-256": crypto.SHA256, "sha-384": crypto.SHA384, "sha-512": crypto.SHA512}[t.realm.KeyHash]
	if !ok {
		return fmt.Errorf("by hash %.32q, which is not known", t.realm.KeyHash)
	}
	d := h.New()
	d.Write(t.realm.Key)
	if !bytes.Equal(d.Sum(nil), t.platform.Challenge) {
		return errors.New("the platform vouches for another key")
	}
	return nil
}

// claims returns registers "rim", "rem0" to "rem3", "personalization",
// "implementation", "instance", "config", and "software0" and up in the order
// of the platform's components. A platform that is not in its secured state is
// one whose memory somebody can read: debug.
func (t *token) claims() attest.Claims {
	const secured = 0x30 // high byte of the lifecycle states 0x3000 to 0x30ff
	c := attest.Claims{TEE: attest.CCA, ReportData: bytes.Clone(t.realm.Challenge), Debug: *t.platform.Lifecycle>>8 != secured,
		Registers: map[string]attest.Hex{
			"rim": t.realm.Initial, "personalization": t.realm.Personalization, "implementation": t.platform.Implementation,
			"instance": t.platform.Instance, "config": t.platform.Config,
		}}
	for i, m := range t.realm.Extensible {
		c.Registers["rem"+strconv.Itoa(i)] = m
	}
	for i, s := range t.platform.Software {
		c.Registers["software"+strconv.Itoa(i)] = s.Measurement
	}
	return c
}
