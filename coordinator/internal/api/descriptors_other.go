//go:build !unix

package api

// descriptors returns 0: the number of open descriptors has no known limit.
func descriptors() uint64 { return 0 }
