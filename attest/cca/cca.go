// Package cca verifies attestation tokens of Arm CCA realms.
//
// It owns the format (Realm Management Monitor specification, "CCA attestation
// token"; RFC 9052 COSE_Sign1): a platform token, signed by the platform's
// initial attestation key, vouches for the realm's key, and a realm token,
// signed by that one, carries the realm's measurements.
//
// Arm's platforms have no common root that could be pinned here. A relying party
// says by Anchors whose platforms it trusts, and compiles that into its program:
// an anchor that a host could exchange would be none. The verifier is a plug-in:
// it is in no default list, its measurements are attest.Claims.Registers, and a
// manifest names them under packages.NAME.plugins.cca.
//
// It refuses to fetch anything and to read a clock, and never panics on hostile
// bytes.
package cca

import (
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Anchor is a platform that is trusted.
type Anchor struct {
	Implementation attest.Hex // 32 bytes: implementation ID of the platform
	Instance       attest.Hex // 33 bytes: instance ID, a UEID that begins with 1
	Key            *ecdsa.PublicKey
}

// Verifier verifies tokens of the platforms that it has anchors for. It is safe
// for concurrent use.
type Verifier struct {
	anchors map[string]*ecdsa.PublicKey // by implementation and instance, hex
}

var _ attest.Verifier = (*Verifier)(nil)

// New returns a verifier for the platforms of anchors, at least one.
func New(anchors ...Anchor) (*Verifier, error) {
	if len(anchors) == 0 {
		return nil, errors.New("no platform is trusted")
	}
	v := &Verifier{anchors: make(map[string]*ecdsa.PublicKey, len(anchors))}
	for _, a := range anchors {
		if len(a.Implementation) != implementationSize || len(a.Instance) != instanceSize || a.Key == nil {
			return nil, fmt.Errorf("anchor %s: want an implementation ID of %d bytes, an instance ID of %d and a key",
				a.Instance, implementationSize, instanceSize)
		}
		if _, ok := hashes[a.Key.Curve.Params().BitSize]; !ok {
			return nil, fmt.Errorf("anchor %s: no key on P-256, P-384 or P-521", a.Instance)
		}
		v.anchors[platformName(a.Implementation, a.Instance)] = a.Key
	}
	return v, nil
}

func platformName(implementation, instance []byte) string {
	return hex.EncodeToString(implementation) + "/" + hex.EncodeToString(instance)
}

// TEE implements attest.Verifier.
func (v *Verifier) TEE() attest.TEE { return attest.CCA }
