package coordinator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// TestHolders looks at what is remembered of those who got the key: no more than
// maxHolders, and an incident about one needs attention.
func TestHolders(t *testing.T) {
	d := newGiver(t, warden)
	for n := range maxHolders + 2 {
		if _, err := d.joining(fmt.Sprintf("r-%d", n)).ask(d); err != nil {
			t.Fatal(err)
		}
		d.clock.advance(time.Second)
	}
	err := d.store.View(t.Context(), func(tx *store.Tx) error {
		if n := replicas.Len(tx); n != maxHolders {
			t.Errorf("%d are remembered, want %d", n, maxHolders)
		}
		for _, gone := range []string{"r-0", "r-1"} {
			if _, ok := replicas.Get(tx, gone); ok {
				t.Errorf("%s, which joined first, is remembered", gone)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	d.check()
	d.revoke(apiv1.Revocation, apiv1.Subject{Kind: "package", Name: "coordinator"})
	status, err := d.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, a := range status.Attention {
		if a.Code == "REP-025" {
			n++
		}
	}
	if n == 0 || n > maxHolders {
		t.Errorf("%d entries say that holders of the key count no more", n)
	}
}

// TestStatusShowsReplicas shows what replicas say of themselves, made harmless.
func TestStatusShowsReplicas(t *testing.T) {
	d := newDeployment(t)
	d.config.Replica = "ashlar-0"
	list := []apiv1.Replica{{Name: "ashlar-0", Role: apiv1.ReplicaActive}, {Name: "ashlar-1", Role: apiv1.ReplicaJoining, Reason: "no\x1b[2J"}, {Name: "ashlar-2", Role: apiv1.ReplicaJoining}}
	for range 100 {
		list = append(list, apiv1.Replica{Name: "more", Role: apiv1.ReplicaStandby, Reason: strings.Repeat("x", 1<<20)})
	}
	d.config.Replicas = func() []apiv1.Replica { return list }
	d.restart()
	status, err := d.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(status.Replicas) != maxReplicas || len(status.Replicas[63].Reason) > maxReason {
		t.Errorf("got %d replicas", len(status.Replicas))
	}
	var waiting []apiv1.Attention
	for _, a := range status.Attention {
		if a.Code == "REP-023" {
			waiting = append(waiting, a)
		}
	}
	if len(waiting) != 1 || waiting[0].Subject != "replica ashlar-1" || strings.Contains(waiting[0].Text, "\x1b") {
		t.Errorf("got attention %+v, want that of ashlar-1", waiting)
	}
	found, err := d.log.Recent(t.Context(), audit.Query{Kinds: []audit.Kind{audit.Start}, Limit: 1})
	if err != nil || len(found) != 1 || found[0].Details["replica"] != "ashlar-0" {
		t.Errorf("the log says %+v, %v of the start", found, err)
	}
}
