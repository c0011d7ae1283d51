package coordinator

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// A nonce is 12 random bytes, its end in Unix seconds (4 bytes, big endian) and
// the first 16 bytes of HMAC-SHA256 over both, what it is for, and the
// exporter of the session that asked. So a nonce costs no memory until it
// is redeemed, and serves no other session. The key lives in memory: a
// restart voids what is outstanding.
const (
	nonceLife   = 60 * time.Second
	nonceRandom = 12
	nonceClear  = nonceRandom + 4
	// maxBurnt bounds the redeemed nonces that are remembered, each for 60 to
	// 120 s: 100,000 of 16 bytes in either of two generations.
	maxBurnt = 100_000
)

// nonces makes and redeems nonces. It is safe for concurrent use.
type nonces struct {
	key    [32]byte
	random io.Reader

	mu     sync.Mutex            // guards what follows
	burnt  [2]map[[16]byte]int64 // tag to end, newest generation first
	turned int64                 // Unix seconds when the newest generation began
}

func newNonces(random io.Reader) (*nonces, error) {
	n := &nonces{random: random, burnt: [2]map[[16]byte]int64{{}, {}}}
	if _, err := io.ReadFull(random, n.key[:]); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	return n, nil
}

func (n *nonces) tag(clear []byte, use string, exporter []byte) (t [16]byte) {
	m := hmac.New(sha256.New, n.key[:])
	for _, part := range [][]byte{clear, []byte(use), exporter} {
		var size [4]byte
		binary.BigEndian.PutUint32(size[:], uint32(len(part)))
		m.Write(size[:])
		m.Write(part)
	}
	copy(t[:], m.Sum(nil))
	return t
}

// make returns a nonce for one use in one session.
func (n *nonces) make(use string, s Session, at time.Time) ([]byte, error) {
	if len(s.Exporter) != exporterSize {
		return nil, problem.New("CRD-002", "wanted a TLS exporter of %d bytes, got %d", exporterSize, len(s.Exporter))
	}
	nonce := make([]byte, apiv1.NonceSize)
	if _, err := io.ReadFull(n.random, nonce[:nonceRandom]); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	binary.BigEndian.PutUint32(nonce[nonceRandom:], uint32(at.Add(nonceLife).Unix()))
	t := n.tag(nonce[:nonceClear], use, s.Exporter)
	copy(nonce[nonceClear:], t[:])
	return nonce, nil
}

// redeem accepts a nonce once: CRD-020 another session's, CRD-021 expired,
// CRD-022 redeemed before.
func (n *nonces) redeem(nonce []byte, use string, s Session, at time.Time) error {
	if len(nonce) != apiv1.NonceSize || len(s.Exporter) != exporterSize {
		return problem.New("CRD-002", "wanted a nonce of %d bytes and a TLS exporter of %d, got %d and %d",
			apiv1.NonceSize, exporterSize, len(nonce), len(s.Exporter))
	}
	t := n.tag(nonce[:nonceClear], use, s.Exporter)
	if subtle.ConstantTimeCompare(t[:], nonce[nonceClear:]) != 1 {
		return problem.New("CRD-020", "this session never got the challenge that came back")
	}
	end := int64(binary.BigEndian.Uint32(nonce[nonceRandom:]))
	if now := at.Unix(); now >= end || now < end-2*int64(nonceLife/time.Second) {
		return problem.New("CRD-021", "the challenge counted until %s", time.Unix(end, 0).UTC().Format(time.RFC3339))
	}
	return n.burn(t, end, at.Unix())
}

func (n *nonces) burn(t [16]byte, end, now int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now < n.turned {
		n.turned = now // the clock was put back; nothing is forgotten for it
	}
	if age := now - n.turned; age >= int64(nonceLife/time.Second) {
		n.burnt[1] = n.burnt[0]
		if age >= 3*int64(nonceLife/time.Second) {
			n.burnt[1] = nil
		}
		n.burnt[0], n.turned = map[[16]byte]int64{}, now
	}
	for _, g := range n.burnt {
		if _, used := g[t]; used {
			return problem.New("CRD-022", "the challenge that came back has been answered before")
		}
	}
	if len(n.burnt[0]) >= maxBurnt {
		return problem.New("CRD-007", "more than %d challenges were answered within %s", maxBurnt, nonceLife)
	}
	n.burnt[0][t] = end
	return nil
}

const useActivate = "activate"

func useRenew(p Peer) string { return "renew\x00" + p.Marble + "\x00" + p.Instance }

// Challenge returns a nonce for Activate: 32 bytes that count once, for 60 s,
// in this session alone.
func (c *Coordinator) Challenge(ctx context.Context, s Session) ([]byte, error) {
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	return c.nonces.make(useActivate, s, c.config.Now())
}

// NewDemand returns a nonce for Renew: as Challenge, and for this peer alone.
func (c *Coordinator) NewDemand(ctx context.Context, p Peer, s Session) ([]byte, error) {
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	return c.demands.make(useRenew(p), s, c.config.Now())
}
