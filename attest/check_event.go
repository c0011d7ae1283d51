package attest

import (
	"fmt"
	"strings"
)

// events judges named events of an event log that replays to the registers.
func (k *check) events(c Claims, want map[string][]EventReference, only bool) {
	if want != nil && len(want) == 0 {
		k.add(Step{Code: CodeNoReference, Field: "events", Want: "none: events names no register", Got: "not compared", Fix: fixEvents})
	}
	for _, register := range sortedKeys(want) {
		if len(want[register]) == 0 {
			k.add(Step{Code: CodeNoReference, Field: "events." + register, Want: "none: the list of events is empty", Got: "not compared", Fix: fixEvents})
			continue
		}
		for _, r := range want[register] {
			k.event(c.Events, register, r)
		}
		if only {
			k.otherEvents(c.Events, register, want[register])
		}
	}
}

var fixEvents = Fix{ManifestAuthor, "name the events that the register may hold"}

var fixLog = Fix{ServiceOwner, "attach the event log of the boot, and start what the package names"}

// event demands that a register measured a name, and always as an accepted
// digest.
func (k *check) event(log []Event, register string, r EventReference) {
	s := Step{Code: CodeEvent, Field: "events." + register + "." + r.Name, Want: list(r.Digest), Got: "no such event", Fix: fixLog}
	if len(log) == 0 {
		s.Got = "no event log that replays to the registers"
	}
	for _, e := range log {
		if e.Register != register || e.Name != r.Name {
			continue
		}
		s.Code, s.OK, s.Got, s.Fix = CodeMeasurement, r.accepts(e.Digest), shown(e.Digest), fixSoftware
		if !s.OK {
			break
		}
	}
	k.add(s)
}

func (r EventReference) accepts(digest Hex) bool {
	for _, d := range r.Digest {
		if len(digest) > 0 && string(d) == string(digest) {
			return true
		}
	}
	return false
}

// otherEvents refuses events of a register that no reference accepts.
func (k *check) otherEvents(log []Event, register string, want []EventReference) {
	var others []string
	for _, e := range log {
		if e.Register != register {
			continue
		}
		accepted := false
		for _, r := range want {
			accepted = accepted || r.Name == e.Name && r.accepts(e.Digest)
		}
		if !accepted {
			others = append(others, eventWord(e))
		}
	}
	s := Step{Code: CodeEvent, Field: "events." + register, OK: len(others) == 0 && len(log) > 0, Want: "only the events that the package names", Got: "only those", Fix: fixLog}
	switch {
	case len(log) == 0:
		s.Got = "no event log that replays to the registers"
	case len(others) > 0:
		s.Got = strings.Join(others[:min(len(others), 4)], ", ")
	}
	k.add(s)
}

// eventWord names an event of a log, which may hold anything.
func eventWord(e Event) string {
	name := e.Name
	if name == "" {
		name = e.Type
	}
	return fmt.Sprintf("%.64q %s", name, shown(e.Digest))
}
