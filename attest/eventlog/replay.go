package eventlog

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Bank is a set of registers that a log can be replayed into.
type Bank struct {
	alg       uint16
	registers []string // by the log's index; "" for one that no event extends
}

// TDX are the runtime registers of a TDX guest, "rtmr0" to "rtmr3", SHA-384.
// Their indices in a log are 1 to 4; index 0 is MRTD, which no event extends.
func TDX() Bank {
	return Bank{algSHA384, []string{"", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}}
}

// TPM are the PCRs of a TPM, "pcr0" to "pcr23", of the SHA-256 bank.
func TPM() Bank {
	names := make([]string, maxRegisters)
	for i := range names {
		names[i] = fmt.Sprintf("pcr%d", i)
	}
	return Bank{algSHA256, names}
}

var fixLog = attest.Fix{Who: attest.ServiceOwner, How: "attach the log that the guest's firmware wrote, whole and unchanged, or none"}

// Check replays a log of at most attest.MaxEventLog bytes and compares the
// outcome with the registers that evidence vouches for. Where every register
// that the log extends has the value that evidence gives it, the step holds and
// the events of these registers are returned in the order of the log; otherwise
// none, and the step names the first register that differs. A register that
// evidence vouches for and the log says nothing about has no events, and one
// that evidence does not vouch for is left out.
func Check(raw []byte, b Bank, vouched map[string]attest.Hex) ([]attest.Event, attest.Step) {
	s := attest.Step{Code: attest.CodeEventLog, Field: "eventLog.replay", Want: "a log whose replay gives the measurement registers",
		Source: "event log", Fix: fixLog}
	entries, err := parse(raw, b.alg)
	if err != nil {
		s.Got = err.Error()
		return nil, s
	}
	values, err := b.replay(entries)
	if err != nil {
		s.Got = err.Error()
		return nil, s
	}
	var explained []string
	for index, name := range b.registers {
		got, extended := values[uint32(index)]
		want := vouched[name]
		switch {
		case !extended || want == nil:
			continue
		case !bytes.Equal(got, want):
			s.Want, s.Got = name+" "+want.String(), name+" "+attest.Hex(got).String()
			return nil, s
		}
		explained = append(explained, name)
	}
	if len(explained) == 0 {
		s.Got = "no event of a register that the evidence vouches for"
		return nil, s
	}
	s.OK, s.Got, s.Fix = true, "explains "+strings.Join(explained, ", "), attest.Fix{}
	return b.events(entries, vouched), s
}

// replay extends the registers. A register that is not in the result was not
// extended.
func (b Bank) replay(entries []entry) (map[uint32][]byte, error) {
	hash := bankHash(b.alg)
	values := map[uint32][]byte{}
	var locality byte
	for i, e := range entries {
		if e.kind == evNoAction {
			if e.index == 0 && values[0] == nil && bytes.HasPrefix(e.data, startup) && len(e.data) == len(startup)+1 {
				locality = e.data[len(startup)]
			}
			continue
		}
		if int64(e.index) >= int64(len(b.registers)) {
			return nil, fmt.Errorf("event %d is of register %d, the last is %d", i+1, e.index, len(b.registers)-1)
		}
		value := values[e.index]
		if value == nil {
			value = make([]byte, hash.Size())
			if e.index == 0 {
				value[len(value)-1] = locality
			}
		}
		h := hash.New()
		h.Write(value)
		h.Write(e.digest)
		values[e.index] = h.Sum(nil)
	}
	return values, nil
}

// events describes what extended the vouched registers.
func (b Bank) events(entries []entry, vouched map[string]attest.Hex) []attest.Event {
	var events []attest.Event
	for _, e := range entries {
		if e.kind == evNoAction || vouched[b.registers[e.index]] == nil {
			continue
		}
		name, proven := e.describe(bankHash(b.alg))
		events = append(events, attest.Event{Register: b.registers[e.index], Type: typeName(e.kind), Digest: bytes.Clone(e.digest), Name: name, Proven: proven})
	}
	return events
}
