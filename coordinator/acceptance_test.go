package coordinator

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
)

// TestAcceptance recomputes the checkpoint from what leads there from the record
// of the manifest in force, also after a restart and a second manifest.
func TestAcceptance(t *testing.T) {
	d := newDeployment(t)
	_, err := d.Acceptance(t.Context(), 1)
	wantCode(t, err, "CRD-010")
	d.mustSet(shop(t))
	prove := func(revision string) {
		t.Helper()
		status, err := d.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a, err := d.Acceptance(t.Context(), status.Checkpoint.Size)
		if err != nil {
			t.Fatal(err)
		}
		var r audit.Record
		if err := json.Unmarshal(a.Record, &r); err != nil {
			t.Fatal(err)
		}
		if r.Kind != audit.ManifestSet || r.Subject != status.Manifest.String() || r.Details["revision"] != revision {
			t.Errorf("got %+v, want the acceptance of revision %s", r, revision)
		}
		leaf := sha256.Sum256(append([]byte{0}, a.Record...))
		head := []byte(r.Previous)
		for rest := append(leaf[:], a.After...); len(rest) > 0; rest = rest[32:] {
			next := sha256.Sum256(bytes.Join([][]byte{[]byte("ashlar audit chain v1\x00"), head, rest[:32]}, nil))
			head = next[:]
		}
		if !bytes.Equal(head, status.Checkpoint.Hash) {
			t.Errorf("got %x, want %s", head, status.Checkpoint.Hash)
		}
		for _, size := range []uint64{0, r.Seq, status.Checkpoint.Size + 1} {
			_, err := d.Acceptance(t.Context(), size)
			wantCode(t, err, "CRD-125")
		}
	}
	prove("1")
	d.mustActivate("web", "one")
	prove("1")
	d.restart()
	prove("1")
	d.mustSet(shop(t, lease("web", "30m")))
	d.mustActivate("web", "two")
	prove("2")
	d.check()
}
