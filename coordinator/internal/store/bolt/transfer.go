package bolt

import (
	"context"

	bolt "go.etcd.io/bbolt"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// exportBytes are written with one commit of Export.
const exportBytes = 8 << 20

// Export makes the state file at path, which is written over, of the entries that
// all puts. What is at path after an error is nothing that counts.
func Export(ctx context.Context, path string, all func(put func(store.Entry) error) error) error {
	e, err := openFile(path, true)
	if err != nil {
		return err
	}
	var puts []store.Entry
	var rev store.Rev
	size := 0
	flush := func() (err error) {
		rev, err = e.Commit(ctx, rev, puts, nil)
		puts, size = nil, 0
		return err
	}
	err = all(func(in store.Entry) error {
		puts = append(puts, in)
		if size += len(in.Value); size < exportBytes && len(puts) < cancelEvery {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if cerr := e.Close(); err == nil {
		err = cerr
	}
	return err
}

// Entries calls each for all entries of the state file at path, which no
// coordinator may have open. The errors are those of Open that it finds there.
func Entries(ctx context.Context, path string, each func(store.Entry) error) error {
	e, err := openFile(path, false)
	if err != nil {
		return err
	}
	defer e.Close()
	return e.do(func() error {
		return e.db.View(func(tx *bolt.Tx) error {
			for _, name := range allBuckets {
				err := tx.Bucket(name).ForEach(func(k, v []byte) error {
					if err := ctx.Err(); err != nil {
						return err
					}
					return each(store.Entry{Key: string(k), Value: v})
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
}
