package snp

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

// cacheSize bounds each cache, in entries of about 15 KB.
const cacheSize = 256

// cache keeps what was verified, by SHA-256 of its bytes; the oldest entry goes
// first. The zero cache is empty and ready.
type cache[V any] struct {
	mu    sync.Mutex
	m     map[[32]byte]V
	order [][32]byte // keys of m by age
}

func (c *cache[V]) get(key [32]byte) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.m[key]
	return v, ok
}

func (c *cache[V]) put(key [32]byte, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[[32]byte]V)
	}
	if _, ok := c.m[key]; !ok {
		if len(c.order) == cacheSize {
			delete(c.m, c.order[0])
			c.order = append(c.order[:0], c.order[1:]...)
		}
		c.order = append(c.order, key)
	}
	c.m[key] = v
}

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
