package seal

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// minPlatformKey is the least that a platform's sealing key may have, in bytes:
// an SGX sealing key has 16.
const minPlatformKey = 16

// Platform is the source that asks the TEE for its sealing key. Policy says what
// the key is bound to ("product", "unique"); key answers with 16 to 64 secret
// bytes, the same ones for the same software on the same platform. All-zero
// bytes are refused: a platform outside a TEE gives those.
func Platform(tee, policy string, key func(ctx context.Context, policy string) ([]byte, error)) Source {
	return platform{tee: tee, policy: policy, key: key}
}

type platform struct {
	tee, policy string
	key         func(ctx context.Context, policy string) ([]byte, error)
}

func (p platform) Name() string { return p.tee + ":" + p.policy }

func (p platform) Key(ctx context.Context, _ []byte) (Key, []byte, error) {
	raw, err := p.key(ctx, p.policy)
	if err != nil {
		return Key{}, nil, problem.Because(err, "STO-013", "asking %s for its sealing key", p.Name())
	}
	if len(raw) < minPlatformKey || len(raw) > 64 {
		return Key{}, nil, problem.New("STO-013", "%s: wanted %d to 64 bytes, got %d", p.Name(), minPlatformKey, len(raw))
	}
	if allZero(raw) {
		return Key{}, nil, problem.New("STO-013", "%s gave a key of zeros only", p.Name())
	}
	k, err := hkdf.Key(sha256.New, raw, nil, "ashlar platform seal v1 "+p.Name(), KeySize)
	if err != nil {
		return Key{}, nil, problem.Because(err, "STO-013", "deriving the key of %s", p.Name())
	}
	wrapping, err := NewKey(k)
	return wrapping, nil, err
}
