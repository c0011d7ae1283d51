package cca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Sizes in bytes.
const (
	implementationSize = 32
	instanceSize       = 33
	challengeSize      = 64
	rawKeySize         = 97 // uncompressed point on P-384
	registers          = 4  // realm extensible measurements
)

// CBOR tags.
const (
	tagCollection = 399 // CCA token, a collection of two
	tagSign1      = 18  // COSE_Sign1 (RFC 9052)
)

// Profiles that are read.
const (
	legacyPlatform = "http://arm.com/CCA-SSD/1.0.0"
	platform10     = "tag:arm.com,2023:cca_platform#1.0.0"
	realm10        = "tag:arm.com,2023:realm#1.0.0"
)

var errVersion = errors.New("not supported")

var decMode = must(cbor.DecOptions{
	DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
	MaxNestedLevels: 8, MaxArrayElements: 64, MaxMapPairs: 64,
}.DecMode())

var encMode = must(cbor.CoreDetEncOptions().EncMode())

// must panics on an error in the constant options above.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type collection struct {
	Platform []byte `cbor:"44234,keyasint"`
	Realm    []byte `cbor:"44241,keyasint"`
}

// sign1 is a COSE_Sign1 message.
type sign1 struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected map[any]cbor.RawMessage
	Payload     []byte
	Signature   []byte
}

// platformClaims are what the platform says of itself.
type platformClaims struct {
	Profile        string      `cbor:"265,keyasint"`
	Challenge      []byte      `cbor:"10,keyasint"` // digest of the realm's key
	Implementation []byte      `cbor:"2396,keyasint"`
	Instance       []byte      `cbor:"256,keyasint"`
	Config         []byte      `cbor:"2401,keyasint"`
	Lifecycle      *uint16     `cbor:"2395,keyasint"`
	Software       []component `cbor:"2399,keyasint"`
}

type component struct {
	Type        string `cbor:"1,keyasint"`
	Measurement []byte `cbor:"2,keyasint"`
}

// realmClaims are what the platform says of the realm.
type realmClaims struct {
	Profile         string   `cbor:"265,keyasint"`
	Challenge       []byte   `cbor:"10,keyasint"`
	Personalization []byte   `cbor:"44235,keyasint"`
	Initial         []byte   `cbor:"44238,keyasint"`
	Extensible      [][]byte `cbor:"44239,keyasint"`
	Key             []byte   `cbor:"44237,keyasint"`
	KeyHash         string   `cbor:"44240,keyasint"`
}

// token is a parsed CCA token.
type token struct {
	platformSigned, realmSigned sign1
	platform                    platformClaims
	realm                       realmClaims
	realmKey                    *ecdsa.PublicKey
}

func parse(raw []byte) (*token, error) {
	var t token
	var c collection
	if err := untag(raw, tagCollection, &c); err != nil {
		return nil, fmt.Errorf("CCA token: %w", err)
	}
	for _, part := range []struct {
		name   string
		raw    []byte
		signed *sign1
		claims any
	}{{"platform token", c.Platform, &t.platformSigned, &t.platform}, {"realm token", c.Realm, &t.realmSigned, &t.realm}} {
		if err := untag(part.raw, tagSign1, part.signed); err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
		if err := decMode.Unmarshal(part.signed.Payload, part.claims); err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if p := t.platform.Profile; p != legacyPlatform && p != platform10 {
		return nil, fmt.Errorf("platform profile %.64q is %w", p, errVersion)
	}
	if err := t.sizes(); err != nil {
		return nil, err
	}
	var err error
	t.realmKey, err = t.realm.key()
	return &t, err
}

// untag reads a value with a CBOR tag, and nothing after it.
func untag(raw []byte, number uint64, v any) error {
	var tagged cbor.RawTag
	if err := decMode.Unmarshal(raw, &tagged); err != nil {
		return err
	}
	if tagged.Number != number {
		return fmt.Errorf("tag %d, want %d", tagged.Number, number)
	}
	return decMode.Unmarshal(tagged.Content, v)
}

func (t *token) sizes() error {
	p, r := t.platform, t.realm
	switch {
	case len(p.Implementation) != implementationSize || len(p.Instance) != instanceSize || p.Instance[0] != 1:
		return errors.New("platform token without implementation ID or instance ID")
	case p.Lifecycle == nil:
		return errors.New("platform token without a lifecycle state")
	case len(r.Challenge) != challengeSize || len(r.Personalization) != challengeSize:
		return errors.New("realm token without a challenge or personalization value of 64 bytes")
	case !digestSize(r.Initial) || len(r.Extensible) != registers:
		return errors.New("realm token without its measurements")
	}
	for _, m := range r.Extensible {
		if !digestSize(m) {
			return errors.New("an extensible measurement is no digest")
		}
	}
	return nil
}

func digestSize(b []byte) bool { return len(b) == 32 || len(b) == 48 || len(b) == 64 }

// key reads the realm's key, a point on P-384: alone in tokens without a
// profile, in a COSE_Key (RFC 9052 section 7) in those of profile 1.0.0.
func (r realmClaims) key() (*ecdsa.PublicKey, error) {
	switch r.Profile {
	case "":
		if len(r.Key) != rawKeySize {
			return nil, errors.New("the realm's key is no point on P-384")
		}
		return ecdsa.ParseUncompressedPublicKey(elliptic.P384(), r.Key)
	case realm10:
		var k struct {
			Type  int    `cbor:"1,keyasint"`
			Curve int    `cbor:"-1,keyasint"`
			X     []byte `cbor:"-2,keyasint"`
			Y     []byte `cbor:"-3,keyasint"`
		}
		if err := decMode.Unmarshal(r.Key, &k); err != nil {
			return nil, fmt.Errorf("the realm's key: %w", err)
		}
		if k.Type != 2 || k.Curve != 2 || len(k.X) != 48 || len(k.Y) != 48 {
			return nil, errors.New("the realm's key is no point on P-384")
		}
		return ecdsa.ParseUncompressedPublicKey(elliptic.P384(), append(append([]byte{4}, k.X...), k.Y...))
	}
	return nil, fmt.Errorf("realm profile %.64q is %w", r.Profile, errVersion)
}
