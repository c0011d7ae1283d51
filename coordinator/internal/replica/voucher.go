package replica

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
)

// A header, version 1 (2026-11), is what a replica that holds the data key sends
// before the bytes of a connection that it passes on:
//
//	magic     7 bytes: F1 "ashlar"; no TLS record begins so
//	version   1 byte: 1
//	family    1 byte: 4 or 6
//	address   16 bytes; IPv4 as ::ffff:a.b.c.d
//	port      2 bytes, big endian
//	time      8 bytes: milliseconds since 1970, big endian
//	random    16 bytes
//	HMAC-SHA256 of all before, 32 bytes
const (
	magic         = "\xf1ashlar"
	headerVersion = 1
	headerLabel   = "ashlar replica v1"

	atVersion = len(magic)
	atFamily  = atVersion + 1
	atAddress = atFamily + 1
	atPort    = atAddress + 16
	atTime    = atPort + 2
	atRandom  = atTime + 8
	atMAC     = atRandom + 16

	headerSize = atMAC + sha256.Size

	headerSkew  = time.Minute // by which the clocks of two replicas may differ
	maxVouchers = 1 << 17     // headers that are remembered: about 2,000 a second
)

// Voucher vouches for the address of a caller whose connection is passed on, and
// checks what others vouch for. Only replicas that hold the same data key accept
// each other's word. It is safe for concurrent use. A nil Voucher vouches for
// nothing and accepts nothing.
type Voucher struct {
	key    seal.Key
	now    func() time.Time
	random io.Reader

	mu   sync.Mutex // guards what follows
	seen map[[16]byte]time.Time
	next time.Time // when seen is to be cleaned
}

// NewVoucher returns what replicas with this data key share.
func NewVoucher(data seal.Key, now func() time.Time, random io.Reader) (*Voucher, error) {
	if !data.Valid() {
		return nil, errors.New("a voucher needs the data key")
	}
	derived, err := hkdf.Key(sha256.New, data.Reveal(), nil, headerLabel, seal.KeySize)
	if err != nil {
		return nil, fmt.Errorf("deriving the key for replicas: %w", err)
	}
	key, err := seal.NewKey(derived)
	if err != nil {
		return nil, fmt.Errorf("deriving the key for replicas: %w", err)
	}
	return &Voucher{key: key, now: now, random: random, seen: map[[16]byte]time.Time{}}, nil
}

// header vouches for a caller.
func (v *Voucher) header(caller netip.AddrPort) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	h := make([]byte, atMAC, headerSize)
	copy(h, magic)
	h[atVersion] = headerVersion
	addr := caller.Addr().Unmap()
	h[atFamily] = family(addr)
	as16 := addr.As16()
	copy(h[atAddress:], as16[:])
	binary.BigEndian.PutUint16(h[atPort:], caller.Port())
	binary.BigEndian.PutUint64(h[atTime:], uint64(v.now().UnixMilli()))
	if _, err := io.ReadFull(v.random, h[atRandom:atMAC]); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	return append(h, v.mac(h)...), nil
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return 4
	}
	return 6
}

func (v *Voucher) mac(h []byte) []byte {
	m := hmac.New(sha256.New, v.key.Reveal())
	m.Write(h[:atMAC])
	return m.Sum(nil)
}

// open returns the caller that a header vouches for. Each header counts once.
func (v *Voucher) open(h []byte) (netip.AddrPort, error) {
	var none netip.AddrPort
	if v == nil {
		return none, errors.New("this replica has no key to check a header with")
	}
	if len(h) != headerSize {
		return none, fmt.Errorf("a header has %d bytes, got %d", headerSize, len(h))
	}
	if !hmac.Equal(v.mac(h), h[atMAC:]) {
		return none, errors.New("the header is not of a replica with the same key")
	}
	if !bytes.HasPrefix(h, []byte(magic)) || h[atVersion] != headerVersion {
		return none, errors.New("the header is of another version")
	}
	addr := netip.AddrFrom16([16]byte(h[atAddress:atPort])).Unmap()
	if h[atFamily] != family(addr) {
		return none, fmt.Errorf("wanted the family of %s, got %d", addr, h[atFamily])
	}
	at := time.UnixMilli(int64(binary.BigEndian.Uint64(h[atTime:])))
	now := v.now()
	if off := now.Sub(at); off > headerSkew || off < -headerSkew {
		return none, fmt.Errorf("the header is of %s, and now is %s", at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if err := v.once([16]byte(h[atRandom:atMAC]), at.Add(headerSkew), now); err != nil {
		return none, err
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(h[atPort:])), nil
}

// once refuses a header that was seen, and remembers it for as long as its time
// would be accepted.
func (v *Voucher) once(random [16]byte, until, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, again := v.seen[random]; again {
		return errors.New("the header was used before")
	}
	if now.After(v.next) || len(v.seen) >= maxVouchers {
		for r, end := range v.seen {
			if now.After(end) {
				delete(v.seen, r)
			}
		}
		v.next = now.Add(headerSkew)
	}
	if len(v.seen) >= maxVouchers {
		return errors.New("too many headers to remember")
	}
	v.seen[random] = until
	return nil
}
