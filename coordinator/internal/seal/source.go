package seal

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// minPlatformKey is the least that a platform's sealing key may have, in bytes:
// an SGX sealing key has 16.
const minPlatformKey = 16

// maxInfo is the most that a source may keep beside the wrapped key, in bytes.
const maxInfo = 4 << 10

// PlatformKey asks a TEE for its sealing key under a policy ("product",
// "unique"): 16 to 64 secret bytes, the same ones for the same software, platform
// and info. With info nil it is the newest key, with what gives it again.
type PlatformKey func(ctx context.Context, policy string, info []byte) (key, newInfo []byte, err error)

// Platform is the source that asks the TEE for its sealing key. All-zero bytes
// are refused: a platform outside a TEE gives those.
func Platform(tee, policy string, key PlatformKey) Source {
	return platform{tee: tee, policy: policy, key: key}
}

type platform struct {
	tee, policy string
	key         PlatformKey
}

func (p platform) Name() string { return p.tee + ":" + p.policy }

func (p platform) Key(ctx context.Context, info []byte) (Key, []byte, error) {
	raw, newInfo, err := p.key(ctx, p.policy, info)
	if err != nil {
		e := problem.Because(err, "STO-013", "asking %s for its sealing key", p.Name())
		if cause := new(problem.Error); errors.As(err, &cause) && cause.Next != "" {
			e.Next = cause.Next // the TEE knows better what is missing
		}
		return Key{}, nil, e
	}
	if len(newInfo) > maxInfo {
		return Key{}, nil, problem.New("STO-013", "%s: wanted at most %d bytes to keep beside the key, got %d", p.Name(), maxInfo, len(newInfo))
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
	return wrapping, newInfo, err
}

// None is the name of NoSource.
const None = "none"

// NoSource seals by nothing: what is wrapped by it is opened by recovery alone.
func NoSource() Source { return noSource{} }

type noSource struct{}

func (noSource) Name() string { return None }

func (noSource) Key(context.Context, []byte) (Key, []byte, error) {
	return Key{}, nil, problem.New("STO-021", "the mode none has no key")
}

// Both is the source that needs a and b: neither opens without the other.
func Both(a, b Source) Source { return both{a, b} }

type both struct{ a, b Source }

// bothInfo is what both keep, as JSON.
type bothInfo struct {
	A []byte `json:"a,omitempty"`
	B []byte `json:"b,omitempty"`
}

func (s both) Name() string { return s.a.Name() + "+" + s.b.Name() }

func (s both) Key(ctx context.Context, info []byte) (Key, []byte, error) {
	var old, next bothInfo
	if info != nil {
		d := json.NewDecoder(bytes.NewReader(info))
		d.DisallowUnknownFields()
		if err := d.Decode(&old); err != nil {
			return Key{}, nil, problem.Because(err, "STO-014", "what %s keeps", s.Name())
		}
	}
	a, infoA, err := s.a.Key(ctx, old.A)
	if err != nil {
		return Key{}, nil, sourceFailed(s.a, err)
	}
	b, infoB, err := s.b.Key(ctx, old.B)
	if err != nil {
		return Key{}, nil, sourceFailed(s.b, err)
	}
	next.A, next.B = infoA, infoB
	kept, err := json.Marshal(next)
	if err != nil {
		return Key{}, nil, fmt.Errorf("encoding what %s keeps: %w", s.Name(), err)
	}
	k, err := hkdf.Key(sha256.New, append(a.Reveal(), b.Reveal()...), nil, "ashlar both seal v1 "+s.Name(), KeySize)
	if err != nil {
		return Key{}, nil, problem.Because(err, "STO-013", "deriving the key of %s", s.Name())
	}
	key, err := NewKey(k)
	return key, kept, err
}
