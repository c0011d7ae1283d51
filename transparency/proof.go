package transparency

import (
	"crypto/sha256"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// MaxProof is how many hashes a proof can have: two for each level of a tree.
const MaxProof = 128

// Proof is an RFC 6962 audit path or consistency proof: hashes of 32 bytes.
type Proof []attest.Hex

// LeafHash is the hash of one entry: SHA-256(0x00 || entry), as in RFC 6962
// section 2.1.
func LeafHash(entry []byte) [32]byte { return [32]byte(rfc6962.DefaultHasher.HashLeaf(entry)) }

// EmptyRoot is the root of a log without entries: SHA-256 of nothing.
func EmptyRoot() [32]byte { return sha256.Sum256(nil) }

// VerifyInclusion checks that the entry with this leaf hash stands at index in
// the log that c names (RFC 6962 section 2.1.1). LOG-004.
func VerifyInclusion(index uint64, leaf [32]byte, p Proof, c Checkpoint) error {
	hashes, err := p.hashes()
	if err == nil {
		err = proof.VerifyInclusion(rfc6962.DefaultHasher, index, c.Size, leaf[:], hashes, c.Root[:])
	}
	if err != nil {
		return problem.Because(err, "LOG-004", "entry %d, checkpoint over %d entries", index, c.Size)
	}
	return nil
}

// VerifyConsistency checks that the log that newer names begins with all
// entries of the one that older names (RFC 6962 section 2.1.2). LOG-005.
func VerifyConsistency(older, newer Checkpoint, p Proof) error {
	hashes, err := p.hashes()
	switch {
	case err != nil:
	case older.Origin != newer.Origin:
		return problem.New("LOG-005", "the logs are %s and %s", older.Origin, newer.Origin)
	case older.Size == 0 && older.Root != EmptyRoot(), newer.Size == 0 && newer.Root != EmptyRoot():
		return problem.New("LOG-005", "a log without entries has another root")
	default:
		err = proof.VerifyConsistency(rfc6962.DefaultHasher, older.Size, newer.Size, hashes, older.Root[:], newer.Root[:])
	}
	if err != nil {
		return problem.Because(err, "LOG-005", "from %d to %d entries", older.Size, newer.Size)
	}
	return nil
}

func (p Proof) hashes() ([][]byte, error) {
	if len(p) > MaxProof {
		return nil, problem.New("LOG-006", "it has %d hashes, limit %d", len(p), MaxProof)
	}
	hashes := make([][]byte, len(p))
	for i, h := range p {
		if len(h) != sha256.Size {
			return nil, problem.New("LOG-006", "hash %d has %d bytes, want %d", i, len(h), sha256.Size)
		}
		hashes[i] = h
	}
	return hashes, nil
}
