package fetch

import (
	"context"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
)

// deadlines is a source that notes how long it is given.
type deadlines struct{ given *[]time.Duration }

func (deadlines) Name() string { return "deadlines" }

func (d deadlines) Fetch(ctx context.Context, _ endorse.Need, _ attest.Endorsements) (attest.Endorsements, error) {
	end, _ := ctx.Deadline()
	*d.given = append(*d.given, time.Until(end).Round(time.Minute))
	return attest.Endorsements{}, nil
}

// TestSourcesShareTheTime: one that hangs leaves the others theirs.
func TestSourcesShareTheTime(t *testing.T) {
	var given []time.Duration
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Hour)
	defer cancel()
	for left := 3; left > 0; left-- {
		if _, err := fetchFrom(ctx, deadlines{&given}, left, endorse.Need{}, attest.Endorsements{}); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []time.Duration{2 * time.Hour, 3 * time.Hour, 6 * time.Hour} {
		if given[i] != want {
			t.Errorf("source %d: got %s, want %s", i, given[i], want)
		}
	}
}
