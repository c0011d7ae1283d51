// Package recovery keeps what opens a state where sealing does not: the document
// with the holders' shares beside seal.json, and the sessions in which holders
// send their shares in.
//
// It owns recovery.json and the order in which it and seal.json change with the
// state. It refuses to trust the document before the data key has authenticated
// it, and to keep a share longer than its session.
package recovery

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/shares"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// The names of the document, and of the next one while the state does not name
// it yet.
const (
	File     = "recovery.json"
	nextFile = "recovery.json.new"
)

const (
	formatVersion = 1
	nonceSize     = 12
	wrappedSize   = nonceSize + seal.KeySize + 16
)

// Deployment names a state for its whole life: what only its data key gives, and
// what tells nothing about it.
func Deployment(data seal.Key) [shares.DeploymentSize]byte {
	m := hmac.New(sha256.New, data.Reveal())
	m.Write([]byte("ashlar deployment v1"))
	return [shares.DeploymentSize]byte(m.Sum(nil))
}

// holder is a user with a recovery key.
type holder struct {
	user, key   string
	certificate []byte // DER
}

// holdersOf returns the holders that a manifest names, ordered by name.
func holdersOf(m *manifest.Manifest) ([]holder, error) {
	if m == nil || m.Recovery == nil {
		return nil, nil
	}
	var all []holder
	for _, user := range slices.Sorted(maps.Keys(m.Recovery.Keys)) {
		block, _ := pem.Decode([]byte(m.Users[user].Certificate))
		if block == nil {
			return nil, fmt.Errorf("the certificate of user %q is not PEM", user)
		}
		all = append(all, holder{user, m.Recovery.Keys[user], block.Bytes})
	}
	return all, nil
}

// fits reports whether d has these holders and this threshold.
func fits(d *apiv1.RecoveryDocument, all []holder, threshold int) bool {
	if d == nil || len(all) == 0 {
		return d == nil && len(all) == 0
	}
	return d.Threshold == threshold && slices.EqualFunc(d.Holders, all, func(x apiv1.RecoveryHolder, h holder) bool {
		return x.User == h.user && x.Key == h.key && bytes.Equal(x.Certificate, h.certificate)
	})
}

// newDocument splits a new secret among the holders.
func newDocument(random io.Reader, data seal.Key, all []holder, threshold, generation int) (*apiv1.RecoveryDocument, error) {
	of := shares.Share{Deployment: Deployment(data), Generation: generation}
	secret, split, commitments, err := shares.Split(of, threshold, len(all))
	if err != nil {
		return nil, fmt.Errorf("splitting the recovery key: %w", err)
	}
	d := &apiv1.RecoveryDocument{Version: formatVersion, Deployment: of.Deployment[:], Generation: generation, Threshold: threshold, Commitments: commitments}
	for i, h := range all {
		to, err := shares.ParseRecipient(h.key)
		if err != nil {
			return nil, problem.Because(err, "REC-010", "the recovery key of %s", h.user)
		}
		sealed, err := split[i].Seal(random, to)
		if err != nil {
			return nil, fmt.Errorf("the share of %s: %w", h.user, err)
		}
		d.Holders = append(d.Holders, apiv1.RecoveryHolder{User: h.user, Certificate: h.certificate, Key: h.key, Share: sealed})
	}
	nonce := make([]byte, nonceSize)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	gcm, err := wrapping(secret, d)
	if err != nil {
		return nil, err
	}
	d.Wrapped = gcm.Seal(nonce, nonce, data.Reveal(), nil)
	d.MAC = macOf(data, d)
	return d, nil
}

// wrapping is the cipher of Wrapped: a key for this deployment and generation
// alone.
func wrapping(secret shares.Secret, d *apiv1.RecoveryDocument) (cipher.AEAD, error) {
	info := fmt.Sprintf("ashlar recovery v1 %s %d", d.Deployment, d.Generation)
	k, err := hkdf.Key(sha256.New, secret.Reveal(), nil, info, seal.KeySize)
	if err != nil {
		return nil, fmt.Errorf("deriving the recovery key: %w", err)
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, fmt.Errorf("making the cipher: %w", err)
	}
	return cipher.NewGCM(block)
}

// macOf authenticates all of a document but its MAC.
func macOf(data seal.Key, d *apiv1.RecoveryDocument) []byte {
	k, err := hkdf.Key(sha256.New, data.Reveal(), nil, "ashlar recovery document v1", sha256.Size)
	if err != nil {
		panic(err) // only for a length that SHA-256 cannot give
	}
	rest := *d
	rest.MAC = nil
	m := hmac.New(sha256.New, k)
	m.Write(encode(&rest))
	return m.Sum(nil)
}

// authentic checks that the document was made for the state of a data key;
// REC-003.
func authentic(data seal.Key, d *apiv1.RecoveryDocument) error {
	if of := Deployment(data); !bytes.Equal(of[:], d.Deployment) {
		return problem.New("REC-003", "the document is of deployment %x, the state of %x", d.Deployment[:8], of[:8])
	}
	if !hmac.Equal(macOf(data, d), d.MAC) {
		return problem.New("REC-003", "the document's MAC does not hold: it was changed")
	}
	return nil
}

// unwrap opens the data key with the secret that the shares gave; REC-021, or
// REC-003 for a document that the key does not authenticate.
func unwrap(secret shares.Secret, d *apiv1.RecoveryDocument) (seal.Key, error) {
	gcm, err := wrapping(secret, d)
	if err != nil {
		return seal.Key{}, err
	}
	plain, err := gcm.Open(nil, d.Wrapped[:nonceSize], d.Wrapped[nonceSize:], nil)
	if err != nil {
		return seal.Key{}, problem.New("REC-021", "the key that they give is not that of generation %d", d.Generation)
	}
	key, err := seal.NewKey(plain)
	if err != nil {
		return seal.Key{}, problem.Because(err, "REC-021", "what they open")
	}
	return key, authentic(key, d)
}

// encode returns the bytes of the file, without its last line break.
func encode(d *apiv1.RecoveryDocument) []byte {
	b, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		panic(err) // strings, numbers and bytes always encode
	}
	return b
}

func digest(d *apiv1.RecoveryDocument) []byte {
	sum := sha256.Sum256(encode(d))
	return sum[:]
}

// read reads a document; nil where there is none. REC-002 for a damaged one.
func read(ctx context.Context, files Files, name string) (*apiv1.RecoveryDocument, error) {
	text, err := files.Read(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, problem.Because(err, "STO-007", "reading the recovery document")
	}
	return parse(text)
}

// parse reads a document strictly: it is the host's to change.
func parse(text []byte) (*apiv1.RecoveryDocument, error) {
	if len(text) > MaxFile {
		return nil, problem.New("REC-002", "it has more than %d bytes", MaxFile)
	}
	d := new(apiv1.RecoveryDocument)
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(d); err != nil {
		return nil, problem.Because(err, "REC-002", "it does not parse")
	}
	if !bytes.Equal(bytes.TrimRight(text, "\n"), encode(d)) {
		return nil, problem.New("REC-002", "it is not as a coordinator writes it")
	}
	switch {
	case d.Version != formatVersion:
		return nil, problem.New("REC-002", "wanted version %d, got %d", formatVersion, d.Version)
	case len(d.Deployment) != shares.DeploymentSize, len(d.Wrapped) != wrappedSize, len(d.MAC) != sha256.Size, d.Generation < 1:
		return nil, problem.New("REC-002", "deployment, generation, wrapped key or MAC is out of its size")
	case len(d.Holders) < 1 || len(d.Holders) > shares.MaxHolders || d.Threshold < 1 || d.Threshold > len(d.Holders) || len(d.Commitments) != d.Threshold:
		return nil, problem.New("REC-002", "%d holders, threshold %d and %d commitments", len(d.Holders), d.Threshold, len(d.Commitments))
	}
	for i := range d.Holders[1:] {
		if d.Holders[i].User >= d.Holders[i+1].User {
			return nil, problem.New("REC-002", "the holders are not in order")
		}
	}
	return d, nil
}

// Read returns the document beside a state; nil where there is none.
func Read(ctx context.Context, files Files) (*apiv1.RecoveryDocument, error) {
	return read(ctx, files, File)
}
