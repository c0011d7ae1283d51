package inspect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/eventlog"
)

// isEventLog reports whether a file begins as a crypto agile TCG event log: with
// an event of no action and a SHA-1 digest of zeros that holds "Spec ID Event03".
func isEventLog(head []byte) bool {
	return len(head) >= 48 && binary.LittleEndian.Uint32(head[4:]) == 3 && bytes.Equal(head[32:48], []byte("Spec ID Event03\x00"))
}

// eventLog replays a log into the registers of a TDX guest or of a TPM.
func (f *file) eventLog() (Finding, error) {
	b, err := f.whole(attest.MaxEventLog)
	if err != nil {
		return Finding{}, err
	}
	out := Finding{What: "event log of a TPM", Basis: Unverified, Notes: []string{}}
	prefix := "tpm."
	values, events, err := eventlog.Replay(b, eventlog.TPM())
	if err != nil || binary.LittleEndian.Uint32(b) != 0 { // the log of a TDX guest begins with an event of RTMR0, index 1
		out.What, prefix = "event log of a TDX guest", "tdx."
		if values, events, err = eventlog.Replay(b, eventlog.TDX()); err != nil {
			return Finding{}, fmt.Errorf("event log: %w", err)
		}
	}
	for n := range 24 {
		for _, name := range []string{"rtmr" + strconv.Itoa(n), "pcr" + strconv.Itoa(n)} {
			if value, ok := values[name]; ok {
				out.add(prefix+name, value.String(), false)
			}
		}
	}
	out.events(events)
	out.Unfit = "nobody signs an event log: take the registers from evidence of the same boot"
	return out, nil
}

// events lists what was measured.
func (out *Finding) events(events []attest.Event) {
	for _, e := range events {
		name := strconv.Quote(e.Name)
		if !e.Proven && e.Name != "" {
			name += " (by the log's own word)"
		}
		out.add(eventPrefix+e.Register, e.Type+" "+e.Digest.String()+" "+name, false)
	}
}

const eventPrefix = "event."
