package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Format, version 1 (2026-11). Engine keys, with their values:
//
//	f                     "ashlar-state 1 " + key id, in clear
//	h                     sealed head: JSON of headRecord
//	r + 20 bytes          sealed record; the 20 bytes are a MAC of table and key
//	l + 16 bytes + 8      sealed log record, packed (pack.go); a MAC of the log's name, the place (big endian)
//	b + 20 bytes          sealed blob, packed (pack.go); the 20 bytes are a MAC of set and key
//
// A sealed value is: sequence (8 bytes, big endian), random (24 bytes),
// ciphertext and 16-byte tag. The first 12 random bytes derive an AES-256-GCM
// key of this value alone, the last 12 are its nonce, so that random values
// never run out. Associated data: a label, the engine key and the sequence.
const (
	recordStart = "r"
	formatText  = "ashlar-state "
	formatVer   = "1"

	randomSize = 24
	prefixSize = 8 + randomSize
	tagSize    = 16
)

var errSealed = errors.New("does not open under this key")

// headRecord is rewritten by every commit.
type headRecord struct {
	Sequence uint64              `json:"sequence"` // commits since creation
	Previous []byte              `json:"previous"` // SHA-256 of the previous head's JSON
	State    []byte              `json:"state"`    // XOR of the MACs of all live records
	Records  int                 `json:"records"`
	Logs     map[string]logState `json:"logs"`
}

// codec seals and names. It is safe for concurrent use if random is.
type codec struct {
	names, values, states []byte // keys: names of entries, sealing, state hash
	keyID                 string
	random                io.Reader
}

func newCodec(key seal.Key, random io.Reader) (*codec, error) {
	c := &codec{keyID: key.ID(), random: random}
	for label, to := range map[string]*[]byte{"names": &c.names, "values": &c.values, "states": &c.states} {
		k, err := hkdf.Key(sha256.New, key.Reveal(), nil, "ashlar store v1 "+label, 32)
		if err != nil {
			return nil, fmt.Errorf("deriving the %s key: %w", label, err)
		}
		*to = k
	}
	return c, nil
}

// mac is HMAC-SHA256 over the parts, each preceded by its length (4 bytes).
func mac(key []byte, parts ...string) []byte {
	m := hmac.New(sha256.New, key)
	var n [4]byte
	for _, p := range parts {
		binary.BigEndian.PutUint32(n[:], uint32(len(p)))
		m.Write(n[:])
		io.WriteString(m, p)
	}
	return m.Sum(nil)
}

func (c *codec) recordKey(table, key string) string {
	return recordStart + string(mac(c.names, "record", table, key)[:20])
}

func (c *codec) logKey(name string, seq uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(LogPrefix+string(mac(c.names, "log", name)[:16])), seq))
}

func (c *codec) blobKey(name, key string) string {
	return BlobPrefix + string(mac(c.names, "blob", name, key)[:20])
}

// aead returns the cipher and nonce for 24 random bytes.
func (c *codec) aead(random []byte) (cipher.AEAD, []byte) {
	block, err := aes.NewCipher(mac(c.values, string(random[:12])))
	if err != nil {
		panic(err) // only for a key of a wrong size
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // only for a block of a wrong size
	}
	return gcm, random[12:]
}

func associated(key string, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte("ashlar store v1\x00"+key+"\x00"), sequence)
}

func (c *codec) seal(key string, sequence uint64, plain []byte) ([]byte, error) {
	out := make([]byte, prefixSize, prefixSize+len(plain)+tagSize)
	binary.BigEndian.PutUint64(out, sequence)
	random := out[8:prefixSize]
	if _, err := io.ReadFull(c.random, random); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	gcm, nonce := c.aead(random)
	return gcm.Seal(out, nonce, plain, associated(key, sequence)), nil
}

func (c *codec) open(key string, sealed []byte) (sequence uint64, plain []byte, err error) {
	if len(sealed) < prefixSize+tagSize {
		return 0, nil, errSealed
	}
	sequence = binary.BigEndian.Uint64(sealed)
	gcm, nonce := c.aead(sealed[8:prefixSize])
	plain, err = gcm.Open(nil, nonce, sealed[prefixSize:], associated(key, sequence))
	if err != nil {
		return 0, nil, errSealed
	}
	return sequence, plain, nil
}

// stateShare is a sealed record's part of the state hash. It covers the random
// bytes and the tag, so that no other sealing of the record has the same.
func (c *codec) stateShare(key string, sealed []byte) (sum [32]byte) {
	copy(sum[:], mac(c.states, key, string(sealed[:prefixSize]), string(sealed[len(sealed)-tagSize:])))
	return sum
}

// sealRecord seals table, key and value together: the engine's key hides them.
func (c *codec) sealRecord(table string, e *entry, sequence uint64) (Entry, error) {
	b := e.box.Load()
	plain := binary.AppendUvarint(nil, uint64(len(table)))
	plain = append(plain, table...)
	plain = binary.AppendUvarint(plain, uint64(len(e.key)))
	plain = append(plain, e.key...)
	plain = append(plain, b.raw...)
	key := c.recordKey(table, e.key)
	sealed, err := c.seal(key, sequence, plain)
	if err != nil {
		return Entry{}, err
	}
	e.sum, e.sealed = c.stateShare(key, sealed), true
	if b.decoded {
		e.box.Store(&box{value: b.value, decoded: true})
	}
	return Entry{Key: key, Value: sealed}, nil
}

func (c *codec) openRecord(in Entry) (table string, e *entry, err error) {
	_, plain, err := c.open(in.Key, in.Value)
	if err != nil {
		return "", nil, problem.New("STO-005", "record %s %v", shortKey(in.Key), err)
	}
	table, plain, ok1 := cutString(plain)
	key, raw, ok2 := cutString(plain)
	if !ok1 || !ok2 || c.recordKey(table, key) != in.Key {
		return "", nil, problem.New("STO-005", "record %s is malformed", shortKey(in.Key))
	}
	e = &entry{key: key, sum: c.stateShare(in.Key, in.Value), sealed: true}
	e.box.Store(&box{raw: raw})
	return table, e, nil
}

// openLog opens the log record that must stand at seq, of at most limit bytes.
func (c *codec) openLog(name string, seq uint64, in Entry, limit int) ([]byte, error) {
	if in.Key != c.logKey(name, seq) {
		return nil, problem.New("STO-006", "log %s: record %d is missing", name, seq)
	}
	_, packed, err := c.open(in.Key, in.Value)
	if err != nil {
		return nil, problem.New("STO-006", "log %s: record %d %v", name, seq, err)
	}
	plain, err := unpack(packed, limit)
	if err != nil {
		return nil, problem.New("STO-005", "log %s: record %d: %v", name, seq, err)
	}
	return plain, nil
}

func (c *codec) formatValue() []byte { return []byte(formatText + formatVer + " " + c.keyID) }

func cutString(b []byte) (s string, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return "", nil, false
	}
	end := size + int(n)
	return string(b[size:end]), b[end:], true
}

func shortKey(key string) string { return hex.EncodeToString([]byte(key[:min(len(key), 6)])) }

func xor(a *[32]byte, b [32]byte) {
	for i := range a {
		a[i] ^= b[i]
	}
}
