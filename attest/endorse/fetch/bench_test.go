package fetch_test

import (
	"testing"

	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
)

// BenchmarkAtHand finds a set that is at hand: what each decision pays.
func BenchmarkAtHand(b *testing.B) {
	for _, name := range []string{"sgx/automata-v3-606a-eval18", tdxSet, "snp/msft-milan-v3-vcek"} {
		b.Run(name, func(b *testing.B) {
			s := attesttest.Load(b, name)
			store, err := fetch.New(fetch.Config{Verifiers: hardwareVerifiers})
			if err != nil {
				b.Fatal(err)
			}
			c, _ := hardwareVerifiers[s.Evidence.TEE].Verify(s.Evidence, s.Endorsements, s.At())
			c.TEE = s.Evidence.TEE
			n, _ := endorse.NeedOf(c)
			var bundle endorse.Bundle
			if err := bundle.Put(endorse.Set{Need: n, Endorsements: s.Endorsements}); err != nil {
				b.Fatal(err)
			}
			store.Import(&bundle)
			for b.Loop() {
				if en, err := store.Endorse(b.Context(), s.Evidence); err != nil || len(en.Items()) == 0 {
					b.Fatal(err)
				}
			}
		})
	}
}
