package problem

//go:generate go run ./errorsdoc ../../docs/errors.md

import (
	"sort"
)

// Entry describes one code: docs/errors.md and `ashlar explain CODE` print it.
type Entry struct {
	Code  Code
	Kind  Kind
	Title string // what happened, in one line without a full stop
	Next  string // what to do, as a sentence fragment: "redeploy the released image"
}

// tables lists the entries by the part of Ashlar that raises them; each part's
// codes live in a file of their own.
var tables = [][]Entry{attestCodes, manifestCodes, coordinatorCodes, edgeCodes,
	governanceCodes, secretCodes, incidentCodes, logCodes, recoveryCodes, storeCodes, meshCodes, marbleCodes, cliCodes, kubeCodes, replicaCodes}

var byCode = func() map[Code]Entry {
	m := make(map[Code]Entry)
	for _, t := range tables {
		for _, e := range t {
			if _, dup := m[e.Code]; dup {
				panic("problem: code " + string(e.Code) + " is in the table twice")
			}
			m[e.Code] = e
		}
	}
	return m
}()

// Lookup returns the entry of a code; an unknown code is an internal failure.
func Lookup(c Code) Entry {
	if e, ok := byCode[c]; ok {
		return e
	}
	return Entry{Code: c, Kind: Internal, Title: "unknown code"}
}

// Known reports whether c is in the table.
func Known(c Code) bool { _, ok := byCode[c]; return ok }

// All returns every entry, ordered by code.
func All() []Entry {
	all := make([]Entry, 0, len(byCode))
	for _, e := range byCode {
		all = append(all, e)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Code < all[j].Code })
	return all
}

type class struct {
	name   string
	exit   int
	status int
}

var classes = map[Kind]class{
	Internal:     {"internal failure", 1, 500},
	Usage:        {"usage", 2, 400},
	Refused:      {"refused", 3, 403},
	Unavailable:  {"unreachable or timed out", 4, 503},
	NotPermitted: {"not permitted", 5, 401},
	Invalid:      {"document invalid", 6, 422},
	Conflict:     {"conflict", 7, 409},
	NotFound:     {"not found", 1, 404},
	TooLarge:     {"too large", 6, 413},
	Busy:         {"busy", 4, 429},
}

// String returns the kind in words.
func (k Kind) String() string { return classes[k].name }

// ExitCode returns the process exit code of the kind: the one table of exit
// codes that every command uses (`ashlar help exit-codes`).
func (k Kind) ExitCode() int { return classes[k].exit }

// HTTPStatus returns the HTTP status that a problem of the kind is sent with.
func (k Kind) HTTPStatus() int { return classes[k].status }
