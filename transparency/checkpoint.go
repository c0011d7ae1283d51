// Package transparency is the public log of a deployment as anybody can check
// it: checkpoints as C2SP signed notes, RFC 6962 proofs of inclusion and
// consistency, tiles, and the promise in each leaf certificate.
//
// Coordinator and clients share it. It is pure: bytes go in, answers come out.
// It opens no file and no connection, keeps no state, and decides nothing about
// what stands in an entry.
package transparency

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// MaxNote is the size limit of a signed checkpoint, in bytes: room for the log
// and a hundred witnesses.
const MaxNote = 64 << 10

const maxOrigin = 255 // bytes

// Checkpoint names a log and everything in it: its first Size entries have the
// Merkle tree hash Root (RFC 6962 section 2.1).
type Checkpoint struct {
	Origin string   // name of the log, and of its key
	Size   uint64   // number of entries
	Root   [32]byte // of the empty log: SHA-256 of nothing
}

// Origin returns the name of the log that a key signs: "ashlar-log/" and the
// first 8 bytes of the SHA-256 of the public key, in hex.
func Origin(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return "ashlar-log/" + hex.EncodeToString(sum[:8])
}

// Marshal returns the body of a checkpoint (c2sp.org/tlog-checkpoint): origin,
// size in decimal and root in base64, each with a newline after it.
func (c Checkpoint) Marshal() []byte {
	b := append([]byte(c.Origin), '\n')
	b = append(strconv.AppendUint(b, c.Size, 10), '\n')
	return append(base64.StdEncoding.AppendEncode(b, c.Root[:]), '\n')
}

// ParseCheckpoint reads the body of a checkpoint, strictly: it accepts what
// Marshal writes and nothing else, so no extension lines. LOG-001.
func ParseCheckpoint(body []byte) (Checkpoint, error) {
	lines := strings.Split(string(body[:min(len(body), MaxNote)]), "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, problem.New("LOG-001", "it has %d lines, want 3", len(lines)-1)
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil || size > 1<<62 {
		return Checkpoint{}, problem.New("LOG-001", "its size is %.40q", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != sha256.Size {
		return Checkpoint{}, problem.New("LOG-001", "its root is %.60q, want 32 bytes in base64", lines[2])
	}
	c := Checkpoint{Origin: lines[0], Size: size, Root: [32]byte(root)}
	if err := checkOrigin(c.Origin); err != nil {
		return Checkpoint{}, problem.Because(err, "LOG-001", "reading its origin")
	}
	if !bytes.Equal(c.Marshal(), body) {
		return Checkpoint{}, problem.New("LOG-001", "it is not written in its only form")
	}
	return c, nil
}

// checkOrigin holds a name against what a key in a signed note can be called.
func checkOrigin(origin string) error {
	if origin == "" || len(origin) > maxOrigin || !utf8.ValidString(origin) || strings.ContainsRune(origin, '+') ||
		strings.ContainsFunc(origin, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return fmt.Errorf("origin %.60q is not 1 to %d bytes without spaces and plus signs", origin, maxOrigin)
	}
	return nil
}

// Signer signs for one log. It prints nothing of its key. It is a note.Signer.
type Signer struct {
	origin string
	vkey   string
	hash   uint32
	key    ed25519.PrivateKey
}

var _ note.Signer = (*Signer)(nil)

// NewSigner returns the signer of the log called origin.
func NewSigner(key ed25519.PrivateKey, origin string) (*Signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("making a log's signer: key of %d bytes, want %d", len(key), ed25519.PrivateKeySize)
	}
	if err := checkOrigin(origin); err != nil {
		return nil, fmt.Errorf("making a log's signer: %w", err)
	}
	vkey, err := note.NewEd25519VerifierKey(origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("making a log's signer: %w", err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("making a log's signer: %w", err)
	}
	return &Signer{origin: origin, vkey: vkey, hash: v.KeyHash(), key: key}, nil
}

// Name is the origin of the log.
func (s *Signer) Name() string { return s.origin }

// KeyHash tells this key from others of its name (c2sp.org/signed-note).
func (s *Signer) KeyHash() uint32 { return s.hash }

// Sign returns the Ed25519 signature over msg.
func (s *Signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// VerifierKey returns the public key as c2sp.org/signed-note encodes it:
// "<origin>+<hash>+<key>".
func (s *Signer) VerifierKey() string { return s.vkey }

// Format hides the private key from every verb.
func (s *Signer) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.vkey) }

// Sign returns the checkpoint as a signed note with the log's signature.
func Sign(c Checkpoint, s *Signer) ([]byte, error) {
	if c.Origin != s.origin {
		return nil, fmt.Errorf("signing a checkpoint of %q with the key of %q", c.Origin, s.origin)
	}
	signed, err := note.Sign(&note.Note{Text: string(c.Marshal())}, s)
	if err != nil {
		return nil, fmt.Errorf("signing a checkpoint: %w", err)
	}
	return signed, nil
}

// Open returns the checkpoint that a signed note holds. The log's key, as
// Signer.VerifierKey encodes it, must have signed it and must bear the name of
// the checkpoint's origin; signatures of others are not looked at. LOG-001 is
// no checkpoint, LOG-002 one that this log has not signed.
func Open(signed []byte, vkey string) (Checkpoint, error) {
	v, err := Verifier(vkey)
	if err != nil {
		return Checkpoint{}, err
	}
	if len(signed) > MaxNote {
		return Checkpoint{}, problem.New("LOG-001", "it has %d bytes, limit %d", len(signed), MaxNote)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, problem.Because(err, "LOG-002", "wanted the signature of %s", v.Name())
	}
	c, err := ParseCheckpoint([]byte(n.Text))
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, problem.New("LOG-002", "it is of the log %s, signed by %s", c.Origin, v.Name())
	}
	return c, nil
}

// maxVerifierKey bounds an encoded key: name, 8 digits, key and two plus signs.
const maxVerifierKey = maxOrigin + 64

// Verifier reads the key of a log as Signer.VerifierKey encodes it. LOG-003.
func Verifier(vkey string) (note.Verifier, error) {
	if len(vkey) > maxVerifierKey {
		return nil, problem.New("LOG-003", "it has %d bytes, limit %d", len(vkey), maxVerifierKey)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, problem.Because(err, "LOG-003", "reading %.100q", vkey)
	}
	if err := checkOrigin(v.Name()); err != nil {
		return nil, problem.Because(err, "LOG-003", "reading its name")
	}
	return v, nil
}
