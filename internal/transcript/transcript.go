// Package transcript collects what somebody writes while others read it. It keeps
// all of it, so it is for what a process of a test or a demonstration prints.
package transcript

import (
	"bytes"
	"sync"
)

// Buffer keeps what is written. The zero Buffer is empty. It is safe for
// concurrent use.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer. It does not fail.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns all that was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
