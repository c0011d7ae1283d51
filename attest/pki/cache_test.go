package pki

import "testing"

// TestCacheIsBounded checks that the oldest entry goes first.
func TestCacheIsBounded(t *testing.T) {
	var c Cache[int]
	at := func(i int) [32]byte { return [32]byte{byte(i), byte(i >> 8)} }
	for i := range CacheSize + 10 {
		c.Put(at(i), i)
		c.Put(at(i), i) // again changes nothing
	}
	if c.Len() != CacheSize || len(c.order) != CacheSize {
		t.Errorf("got %d entries in %d places, want %d", c.Len(), len(c.order), CacheSize)
	}
	for i := range CacheSize + 10 {
		if v, ok := c.Get(at(i)); ok != (i >= 10) || ok && v != i {
			t.Errorf("entry %d: got %d, %t", i, v, ok)
		}
	}
}
