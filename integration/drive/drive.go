// Package drive uses a deployment as people and programs do, and remembers what
// it was promised: pages that are asked for again and again, marbles that are
// activated as fast as they are let, somebody at a shell. Integration tests share
// it. It starts and kills no part of a deployment, and what the answers mean is
// its caller's to say.
package drive

import (
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
)

// Patience is how long something may take on a machine that is busy.
const Patience = 2 * time.Minute

// Eventually polls until f returns "" or time is up; f says what is not so yet.
func Eventually(t testing.TB, limit time.Duration, f func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		missing := f()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %s", limit, missing)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// Audit returns the whole log.
func Audit(t testing.TB, c *client.Client) []apiv1.AuditRecord {
	t.Helper()
	var all []apiv1.AuditRecord
	for {
		page, err := c.Audit(t.Context(), uint64(len(all)), 250)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Records...)
		if len(page.Records) == 0 || uint64(len(all)) >= page.Checkpoint.Size {
			return all
		}
	}
}
