package bolt

import (
	"path/filepath"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Medium {
		path := filepath.Join(t.TempDir(), "state.db")
		create := true
		return func() store.Engine {
			e, err := openFile(path, create)
			if err != nil {
				t.Fatal(err)
			}
			create = false
			return e
		}
	})
}
