package transparency

import (
	"crypto/ed25519"
	"encoding/binary"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Promise is the log's word that an entry stands at a place. Who holds one can
// demand the proof: a log that has no such entry there has broken its word, and
// the signature shows it.
type Promise struct {
	Index     uint64   // of the entry
	Leaf      [32]byte // LeafHash of the entry
	Signature [64]byte // Ed25519, by the log's key
}

// promised returns what is signed: a text that no signed note can be, since it
// holds a zero byte.
func promised(origin string, index uint64, leaf [32]byte) []byte {
	b := append([]byte("ashlar log promise v1\x00"), origin...)
	b = binary.BigEndian.AppendUint64(append(b, 0), index)
	return append(b, leaf[:]...)
}

// Promise promises that the entry with this leaf hash stands at index.
func (s *Signer) Promise(index uint64, leaf [32]byte) Promise {
	return Promise{Index: index, Leaf: leaf, Signature: [64]byte(ed25519.Sign(s.key, promised(s.origin, index, leaf)))}
}

// VerifyPromise checks that the log with this key (Signer.VerifierKey) has given
// the promise. LOG-009.
func VerifyPromise(p Promise, vkey string) error {
	v, err := Verifier(vkey)
	if err != nil {
		return err
	}
	if !v.Verify(promised(v.Name(), p.Index, p.Leaf), p.Signature[:]) {
		return problem.New("LOG-009", "wanted the signature of %s over entry %d", v.Name(), p.Index)
	}
	return nil
}
