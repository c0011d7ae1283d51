package tdx

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// TestEventLog verifies a real quote with the CCEL of its boot, and with what is
// not its log.
func TestEventLog(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile("../eventlog/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	quote, log := read("gcp-tdx-cos.quote"), read("gcp-tdx-cos.ccel")
	digest := []byte{0x36, 0x14, 0x2e, 0x70} // of one of GRUB's commands, SHA-384
	changed := bytes.Replace(log, digest, []byte{0x36, 0x14, 0x2e, 0x71}, 1)
	otherQuote := append([]byte{}, quote...)
	otherQuote[48+328] ^= 1 // RTMR0
	for name, c := range map[string]struct {
		e      attest.Evidence
		events int
		step   string // "": none
	}{
		"with its log":        {attest.Evidence{TEE: attest.TDX, Raw: quote, EventLog: log}, 43, "holds"},
		"without log":         {attest.Evidence{TEE: attest.TDX, Raw: quote}, 0, ""},
		"with a changed log":  {attest.Evidence{TEE: attest.TDX, Raw: quote, EventLog: changed}, 0, "fails"},
		"with a damaged log":  {attest.Evidence{TEE: attest.TDX, Raw: quote, EventLog: log[:1000]}, 0, "fails"},
		"with another quote":  {attest.Evidence{TEE: attest.TDX, Raw: otherQuote, EventLog: log}, 0, "fails"},
		"with a TPM's log":    {attest.Evidence{TEE: attest.TDX, Raw: quote, EventLog: read("tpm-rhel8.log")}, 0, "fails"},
		"with a broken quote": {attest.Evidence{TEE: attest.TDX, Raw: quote[:100], EventLog: log}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			claims, steps := NewVerifier().Verify(c.e, attest.Endorsements{}, time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC))
			got := ""
			for _, s := range steps {
				if s.Code == attest.CodeEventLog {
					got = map[bool]string{true: "holds", false: "fails"}[s.OK]
				}
			}
			if got != c.step || len(claims.Events) != c.events {
				t.Errorf("got step %q and %d events, want %q and %d", got, len(claims.Events), c.step, c.events)
			}
		})
	}
}
