package snp

import (
	"crypto/sha256"
	"encoding/binary"
)

// digest frames each part by its length, so that no two lists of parts have one
// digest.
func digest(parts ...[]byte) [32]byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}
