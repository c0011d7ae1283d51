package attest

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// FilesDigest is SHA-256 over the sorted files: for each, the length of its
// name (8 bytes, big endian), the name, and SHA-256 of its content. Without
// files it is 32 zero bytes.
func FilesDigest(files map[string]Hex) [32]byte {
	if len(files) == 0 {
		return [32]byte{}
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	h := sha256.New()
	for _, name := range names {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(name))))
		h.Write([]byte(name))
		h.Write(files[name])
	}
	return [32]byte(h.Sum(nil))
}
