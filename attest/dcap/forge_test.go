package dcap_test

import (
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

type (
	forge  = attesttest.IntelForge
	forged = attesttest.IntelForged
)

var forgeTime = attesttest.ForgeTime

const day = attesttest.Day

func newForge(t testing.TB, tee attest.TEE) *forge {
	t.Helper()
	return attesttest.NewIntelForge(t, tee, "Test")
}

// verifier returns a verifier that trusts a forge.
func verifier(f *forge) *dcap.Verifier {
	f.T.Helper()
	v, err := dcap.New(dcap.Config{TEE: f.TEE, Root: f.Trusted, Names: f.Names})
	if err != nil {
		f.T.Fatal(err)
	}
	return v
}
