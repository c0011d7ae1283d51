package transparency

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Sizes of a co-signature (c2sp.org/tlog-cosignature): key ID, time in seconds
// since 1970, Ed25519 signature.
const (
	cosignatureAlgorithm = 4 // of its verifier keys
	keyIDSize            = 4
	timeSize             = 8
	cosignatureSize      = timeSize + ed25519.SignatureSize
)

// MaxWitnesses is how many witnesses a deployment or a client's policy names at
// most.
const MaxWitnesses = 16

// WitnessKey is the public key of who co-signs checkpoints with Ed25519. It is a
// note.Verifier of co-signatures. The zero WitnessKey accepts none.
type WitnessKey struct {
	name string
	id   uint32
	key  [ed25519.PublicKeySize]byte
}

var _ note.Verifier = WitnessKey{}

// ParseWitnessKey reads the key of a witness, NAME+ID+BASE64, as
// c2sp.org/tlog-cosignature encodes it: signature type 4 and 32 bytes. LOG-080.
func ParseWitnessKey(vkey string) (WitnessKey, error) {
	bad := func(format string, args ...any) (WitnessKey, error) {
		return WitnessKey{}, problem.New("LOG-080", "%.100q: %s", vkey, fmt.Sprintf(format, args...))
	}
	name, rest, _ := strings.Cut(vkey, "+")
	_, encoded, ok := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	switch {
	case !ok || err != nil || len(raw) == 0 || len(vkey) > 2*maxVerifierKey:
		return bad("want NAME+ID+BASE64")
	case checkOrigin(name) != nil:
		return bad("its name has 1 to %d bytes without spaces and plus signs", maxOrigin)
	case raw[0] != cosignatureAlgorithm:
		return bad("its signature type is %d, want %d: Ed25519 co-signatures", raw[0], cosignatureAlgorithm)
	case len(raw) != 1+ed25519.PublicKeySize:
		return bad("its key has %d bytes, want %d", len(raw)-1, ed25519.PublicKeySize)
	}
	k := newWitnessKey(name, raw[1:])
	if k.String() != vkey { // base64 may hold line breaks
		return bad("its only form is %s", k)
	}
	return k, nil
}

func newWitnessKey(name string, key []byte) WitnessKey {
	sum := sha256.Sum256(append([]byte(name+"\n"), append([]byte{cosignatureAlgorithm}, key...)...))
	return WitnessKey{name: name, id: binary.BigEndian.Uint32(sum[:]), key: [ed25519.PublicKeySize]byte(key)}
}

// Name is the name of the witness.
func (k WitnessKey) Name() string { return k.name }

// KeyHash is the key ID that tells this key from others of its name.
func (k WitnessKey) KeyHash() uint32 { return k.id }

// String returns the key as ParseWitnessKey reads it.
func (k WitnessKey) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.name, k.id, base64.StdEncoding.EncodeToString(append([]byte{cosignatureAlgorithm}, k.key[:]...)))
}

// Verify says whether sig is a co-signature of the checkpoint's body msg.
func (k WitnessKey) Verify(msg, sig []byte) bool {
	if len(sig) != cosignatureSize || k.name == "" {
		return false
	}
	at := binary.BigEndian.Uint64(sig)
	return at < 1<<63 && ed25519.Verify(k.key[:], cosigned(at, msg), sig[timeSize:])
}

// cosigned is what a witness signs at a time, in seconds since 1970.
func cosigned(at uint64, body []byte) []byte {
	return append([]byte("cosignature/v1\ntime "+strconv.FormatUint(at, 10)+"\n"), body...)
}

// ParseWitnessKeys reads the keys of several witnesses. LOG-080 also where one
// key stands twice, under whatever name, since it would count twice.
func ParseWitnessKeys(vkeys []string) ([]WitnessKey, error) {
	if len(vkeys) > MaxWitnesses {
		return nil, problem.New("LOG-080", "%d witnesses, limit %d", len(vkeys), MaxWitnesses)
	}
	keys := make([]WitnessKey, 0, len(vkeys))
	for _, v := range vkeys {
		k, err := ParseWitnessKey(v)
		if err != nil {
			return nil, err
		}
		for _, other := range keys {
			if other.key == k.key || other.name == k.name && other.id == k.id {
				return nil, problem.New("LOG-080", "%s and %s have the same key", other.name, k.name)
			}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// Cosignature is the word of a witness: at that time, this was the largest
// checkpoint of the log that it had seen, and everything that it saw before is a
// part of it.
type Cosignature struct {
	Witness string    `json:"witness"` // its name
	Time    time.Time `json:"time"`    // by its clock
	Line    string    `json:"-"`       // of the signed note, with its newline
}

// OpenCosigned is Open for a checkpoint that witnesses may have co-signed too. It
// returns the co-signatures of those witnesses and looks at no others. LOG-081
// is a co-signature that bears the ID of one of them and is not its.
func OpenCosigned(signed []byte, vkey string, witnesses []WitnessKey) (Checkpoint, []Cosignature, error) {
	c, err := Open(signed, vkey)
	if err != nil || len(witnesses) == 0 {
		return c, nil, err
	}
	verifiers := make([]note.Verifier, len(witnesses))
	for i, w := range witnesses {
		verifiers[i] = w
	}
	n, err := note.Open(signed, note.VerifierList(verifiers...))
	if none := (*note.UnverifiedNoteError)(nil); errors.As(err, &none) {
		return c, nil, nil
	}
	if err != nil {
		return Checkpoint{}, nil, problem.Because(err, "LOG-081", "checkpoint over %d entries", c.Size)
	}
	found := make([]Cosignature, 0, len(n.Sigs))
	for _, s := range n.Sigs {
		co, err := readCosignature(s)
		if err != nil {
			return Checkpoint{}, nil, err
		}
		found = append(found, co)
	}
	return c, found, nil
}

// readCosignature reads a signature that was verified.
func readCosignature(s note.Signature) (Cosignature, error) {
	raw, err := base64.StdEncoding.DecodeString(s.Base64)
	if err != nil || len(raw) != keyIDSize+cosignatureSize {
		return Cosignature{}, problem.New("LOG-081", "the co-signature of %s has %d bytes, want %d", s.Name, len(raw), keyIDSize+cosignatureSize)
	}
	at := int64(binary.BigEndian.Uint64(raw[keyIDSize:]))
	return Cosignature{Witness: s.Name, Time: time.Unix(at, 0).UTC(), Line: "— " + s.Name + " " + s.Base64 + "\n"}, nil
}

// Cosigner co-signs checkpoints. It checks nothing: a witness does, before it
// asks for a co-signature. It prints nothing of its key.
type Cosigner struct {
	public  WitnessKey
	private ed25519.PrivateKey
}

// NewCosigner returns the co-signer called name.
func NewCosigner(name string, key ed25519.PrivateKey) (*Cosigner, error) {
	if err := checkOrigin(name); err != nil || len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("making a co-signer %.60q with a key of %d bytes", name, len(key))
	}
	return &Cosigner{public: newWitnessKey(name, key.Public().(ed25519.PublicKey)), private: key}, nil
}

// Key returns the public key.
func (c *Cosigner) Key() WitnessKey { return c.public }

// Cosign returns the line that adds a co-signature to a signed checkpoint.
func (c *Cosigner) Cosign(signed []byte, at time.Time) ([]byte, error) {
	end := bytes.LastIndex(signed, []byte("\n\n"))
	if end < 0 || at.Unix() < 0 {
		return nil, fmt.Errorf("co-signing: no signed note, or a time before 1970")
	}
	now := uint64(at.Unix())
	raw := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, c.public.id), now)
	raw = append(raw, ed25519.Sign(c.private, cosigned(now, signed[:end+1]))...)
	return []byte("— " + c.public.name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"), nil
}

// Format hides the private key from every verb.
func (c *Cosigner) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.public.String()) }
