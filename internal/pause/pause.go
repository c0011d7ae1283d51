// Package pause waits between attempts. How long, and how often, is its callers'
// to say.
package pause

import (
	"context"
	"time"
)

// For waits for d, and reports false if ctx ended first.
func For(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
