package eventlog

import "github.com/ashlar-mesh/ashlar/attest"

// Replay returns the registers of a bank that a log of at most
// attest.MaxEventLog bytes extends, with their events in the order of the log.
// Nobody vouches for either: whoever has evidence of the same boot calls Check.
func Replay(raw []byte, b Bank) (map[string]attest.Hex, []attest.Event, error) {
	entries, err := parse(raw, b.alg)
	if err != nil {
		return nil, nil, err
	}
	values, err := b.replay(entries)
	if err != nil {
		return nil, nil, err
	}
	registers := map[string]attest.Hex{}
	for index, value := range values {
		if name := b.registers[index]; name != "" {
			registers[name] = value
		}
	}
	return registers, b.events(entries, registers), nil
}
