package coordinator

import (
	"crypto/sha256"
	"testing"

	"github.com/ashlar-mesh/ashlar/transparency"
)

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// TestAcceptance follows the proof of the manifest's acceptance to the log's
// checkpoint, also after a restart and a second manifest.
func TestAcceptance(t *testing.T) {
	d := newDeployment(t)
	_, err := d.Acceptance(t.Context(), 1)
	wantCode(t, err, "CRD-010")
	d.mustSet(shop(t))
	prove := func(revision string) {
		t.Helper()
		signed, err := d.LatestCheckpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		at, err := transparency.Open(signed, d.LogKey())
		if err != nil {
			t.Fatal(err)
		}
		a, err := d.Acceptance(t.Context(), at.Size)
		if err != nil {
			t.Fatal(err)
		}
		e, err := transparency.ParseEntry(a.Entry)
		if err != nil {
			t.Fatal(err)
		}
		m, err := d.Manifest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != "manifestSet" || e.Subject != m.Digest.String() || e.Details["revision"] != revision {
			t.Errorf("got %+v, want the acceptance of revision %s", e, revision)
		}
		if err := transparency.VerifyInclusion(e.Seq, transparency.LeafHash(a.Entry), a.Proof, at); err != nil {
			t.Error(err)
		}
		for _, size := range []uint64{0, e.Seq, at.Size + 1} {
			_, err := d.Acceptance(t.Context(), size)
			wantCode(t, err, "LOG-010")
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
