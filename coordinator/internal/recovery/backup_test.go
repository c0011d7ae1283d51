package recovery

import (
	"context"
	"crypto/rand"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/backup"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
)

// slowReader asks at each write whether the keeper could change something.
type slowReader struct {
	k     *Keeper
	n     int
	stuck int
}

func (r *slowReader) Write(b []byte) (int, error) {
	r.n++
	if r.k.mu.TryLock() {
		r.k.mu.Unlock()
	} else {
		r.stuck++
	}
	return len(b), nil
}

// TestBackupDelaysNobody fetches a backup as slowly as it likes: a manifest, and
// so a revocation behind it, does not wait.
func TestBackupDelaysNobody(t *testing.T) {
	p := newPlace(t)
	k := p.open(t, Mark{})
	source := seal.Platform("test", "product", func(context.Context, string, []byte) ([]byte, []byte, error) {
		return []byte("0123456789abcdef0123456789abcdef"), nil, nil
	})
	db, err := bolt.Create(t.Context(), bolt.Config{Dir: t.TempDir(), Source: source, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r := &slowReader{k: k}
	if err := k.Backup(t.Context(), db, backup.NewWriter(r, p.clock.now())); err != nil {
		t.Fatal(err)
	}
	if r.n == 0 || r.stuck > 0 {
		t.Errorf("at %d of %d writes nothing could change", r.stuck, r.n)
	}
}
