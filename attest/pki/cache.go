package pki

import "sync"

// CacheSize bounds each cache, in entries: a chain takes about 10 KB, a set of
// endorsements about 50 KB.
const CacheSize = 256

// Cache keeps what was verified, by SHA-256 of its bytes; the oldest entry goes
// first. The zero Cache is empty and ready, and safe for concurrent use.
type Cache[V any] struct {
	mu    sync.Mutex
	m     map[[32]byte]V
	order [][32]byte // keys of m by age
}

// Get returns what was put under a key.
func (c *Cache[V]) Get(key [32]byte) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.m[key]
	return v, ok
}

// Put keeps v, which must have been verified, under the digest of its bytes.
func (c *Cache[V]) Put(key [32]byte, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[[32]byte]V)
	}
	if _, ok := c.m[key]; !ok {
		if len(c.order) == CacheSize {
			delete(c.m, c.order[0])
			c.order = append(c.order[:0], c.order[1:]...)
		}
		c.order = append(c.order, key)
	}
	c.m[key] = v
}

// Len returns the number of entries.
func (c *Cache[V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.m)
}
