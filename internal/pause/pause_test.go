package pause

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	for _, c := range []struct {
		name  string
		ends  time.Duration // when the context does
		want  bool
		waits time.Duration
	}{
		{"whole", time.Hour, true, time.Minute},
		{"cut short", time.Second, false, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.ends)
				defer cancel()
				began := time.Now()
				if got := For(ctx, time.Minute); got != c.want || time.Since(began) != c.waits {
					t.Errorf("got %v after %s, want %v after %s", got, time.Since(began), c.want, c.waits)
				}
			})
		})
	}
}
