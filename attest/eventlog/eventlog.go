// Package eventlog reads TCG event logs, of firmware with a TPM and of TDX
// guests (CCEL), and replays them against the registers that evidence vouches
// for.
//
// It owns the format, the replay and the names of events. It refuses to believe
// a log: nobody signs one, so events count only where replaying them gives the
// registers of the quote, and a name counts only where the digest is that of
// what the name shows.
//
// Sources: TCG PC Client Platform Firmware Profile Specification 1.06, section
// 10 (crypto agile log); UEFI Specification 2.10, section 38 (TDX registers).
package eventlog

import (
	"bytes"
	"crypto"
	_ "crypto/sha256" // the banks
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Numbers of TPM_ALG_ID (TCG Algorithm Registry) with the hashes that banks of
// registers have.
const (
	algSHA256 = 0x000B
	algSHA384 = 0x000C
)

const (
	sha1Size      = 20
	maxAlgorithms = 16
	maxRegisters  = 24
)

var (
	errTruncated = errors.New("ends before its length fields say")
	specID       = []byte("Spec ID Event03\x00")
	startup      = []byte("StartupLocality\x00")
)

// entry is one event of a log. Slices point into the log.
type entry struct {
	index  uint32 // of the register
	kind   uint32 // TCG event type
	digest []byte // in the bank that is read
	data   []byte
}

// parse reads a crypto agile log and returns its events with their digests in
// one bank. What follows the last event may only be padding, all zeros or all
// ones: firmware logs into an area of fixed size.
func parse(raw []byte, alg uint16) ([]entry, error) {
	if len(raw) == 0 || len(raw) > attest.MaxEventLog {
		return nil, fmt.Errorf("%d bytes, a log has 1 to %d", len(raw), attest.MaxEventLog)
	}
	r := &reader{b: raw}
	sizes, err := r.header()
	if err != nil {
		return nil, fmt.Errorf("first event: %w", err)
	}
	if sizes[alg] == 0 {
		return nil, fmt.Errorf("has no bank of algorithm %#04x", alg)
	}
	var entries []entry
	for !r.padding() {
		e := entry{index: r.u32(), kind: r.u32()}
		if e.digest, err = r.digests(sizes, alg); err == nil {
			e.data = r.take(r.u32())
			err = r.err
		}
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", len(entries)+1, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// reader walks a log, little endian, and remembers that it ran out of it.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n uint32) []byte {
	if r.err != nil || uint64(n) > uint64(len(r.b)) {
		r.err = errTruncated
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// padding reports whether only padding is left.
func (r *reader) padding() bool {
	for i, b := range r.b {
		if b != r.b[0] || i == 0 && b != 0 && b != 0xff {
			return false
		}
	}
	return true
}

// header reads the first event, a TCG_PCR_EVENT with the TCG_EfiSpecIdEvent
// structure, and returns the size of a digest by algorithm.
func (r *reader) header() (map[uint16]int, error) {
	r.u32() // register: 0 for a TPM, any for TDX
	kind := r.u32()
	r.take(sha1Size)
	id := &reader{b: r.take(r.u32())}
	if r.err != nil {
		return nil, r.err
	}
	if kind != evNoAction || !bytes.HasPrefix(id.b, specID) {
		return nil, errors.New("not a specification ID of version 3: the log is not crypto agile")
	}
	id.take(uint32(len(specID)) + 4 + 4) // platform class; version, errata, size of UINTN
	n := id.u32()
	if n == 0 || n > maxAlgorithms {
		return nil, fmt.Errorf("names %d algorithms, a log has 1 to %d", n, maxAlgorithms)
	}
	sizes := make(map[uint16]int, n)
	for range n {
		alg, size := id.u16(), int(id.u16())
		if known := bankHash(alg); id.err == nil && (size == 0 || size > 64 || sizes[alg] != 0 || known != 0 && known.Size() != size) {
			return nil, fmt.Errorf("algorithm %#04x with %d bytes is repeated or has no such size", alg, size)
		}
		sizes[alg] = size
	}
	id.take(uint32(id.u8())) // vendor's information
	return sizes, id.err
}

// bankHash returns the hash of a bank that is read here, or 0.
func bankHash(alg uint16) crypto.Hash {
	switch alg {
	case algSHA256:
		return crypto.SHA256
	case algSHA384:
		return crypto.SHA384
	}
	return 0
}

// digests reads TPML_DIGEST_VALUES: each algorithm of the log at most once, and
// the one that is asked for.
func (r *reader) digests(sizes map[uint16]int, alg uint16) (digest []byte, err error) {
	n := r.u32()
	if r.err == nil && (n == 0 || int64(n) > int64(len(sizes))) {
		return nil, fmt.Errorf("%d digests, the log has %d algorithms", n, len(sizes))
	}
	seen := make(map[uint16]bool, len(sizes))
	for range n {
		a := r.u16()
		if r.err == nil && (sizes[a] == 0 || seen[a]) {
			return nil, fmt.Errorf("a digest of algorithm %#04x is repeated or not of this log", a)
		}
		seen[a] = true
		sum := r.take(uint32(sizes[a]))
		if a == alg {
			digest = sum
		}
	}
	if r.err == nil && digest == nil {
		return nil, fmt.Errorf("no digest of algorithm %#04x", alg)
	}
	return digest, r.err
}
