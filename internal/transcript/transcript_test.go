package transcript

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestBufferIsSharedByWriters(t *testing.T) {
	var b Buffer
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for range 100 {
				fmt.Fprintln(&b, i)
				_ = b.String()
			}
		})
	}
	writers.Wait()
	if got := strings.Count(b.String(), "\n"); got != 800 || len(b.String()) != 1600 {
		t.Errorf("got %d lines in %d bytes, want 800 in 1600", got, len(b.String()))
	}
}
