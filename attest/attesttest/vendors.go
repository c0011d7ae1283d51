package attesttest

import (
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/services"
)

// Vendors is a PCCS and a KDS with the documents of sets, which fail by script.
// It is safe for concurrent use.
type Vendors struct {
	*services.Service
	URL string

	mu     sync.Mutex // guards what follows
	sets   []attest.Endorsements
	faults []services.Fault
}

// NewVendors starts services that end with the test.
func NewVendors(t testing.TB, sets ...attest.Endorsements) *Vendors {
	t.Helper()
	v := &Vendors{sets: sets}
	v.Service = services.New(services.Config{
		Sets: func() ([]attest.Endorsements, error) {
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.sets, nil
		},
		Faults: func() ([]services.Fault, error) {
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.faults, nil
		},
	})
	server := httptest.NewServer(v.Service)
	t.Cleanup(server.Close)
	v.URL = server.URL
	return v
}

// Serve replaces the documents.
func (v *Vendors) Serve(sets ...attest.Endorsements) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sets = sets
}

// Script replaces what goes wrong.
func (v *Vendors) Script(faults ...services.Fault) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = faults
}
