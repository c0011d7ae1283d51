package envoytest

import (
	"bytes"
	"sync"
	"testing"
)

// testLog passes what Envoy writes to the test's log, line by line, and no
// longer once the test is over.
type testLog struct {
	t      testing.TB
	prefix string

	mu   sync.Mutex // guards what follows
	rest []byte
}

// Write implements io.Writer.
func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		l.t.Logf("%s: %s", l.prefix, line)
		l.rest = rest
	}
}
