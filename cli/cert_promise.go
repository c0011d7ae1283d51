package cli

import (
	"fmt"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// promised is what became of the log's promise in a leaf.
type promised struct {
	Log  string `json:"log"` // name of the key that it was verified with
	Code string `json:"code,omitempty"`
	OK   bool   `json:"ok"`
}

// verify verifies the log's promise with a key; "" leaves it as it is.
func (l *leafInfo) verify(logKey string) {
	if l == nil || logKey == "" {
		return
	}
	l.Promise = &promised{OK: true}
	if v, err := transparency.Verifier(logKey); err == nil {
		l.Promise.Log = v.Name()
	}
	if err := transparency.VerifyPromise(l.facts.Log, logKey); err != nil {
		l.Promise.OK, l.Promise.Code = false, string(problem.CodeOf(err))
	}
}

// broken reports whether a promise was verified that the log has not given.
func (l *leafInfo) broken() bool { return l != nil && l.Promise != nil && !l.Promise.OK }

func (a *app) promiseLine(l *leafInfo) string {
	line := fmt.Sprintf("entry %d, leaf hash %s", l.Entry, a.p.Digest(l.Leaf.String()))
	switch {
	case l.Promise == nil:
		return line + ": promised, not verified (--log-key)"
	case !l.Promise.OK:
		return a.p.Red(term.Bad) + " " + line + ": NOT promised by " + l.Promise.Log
	}
	return a.p.Green(term.OK) + " " + line + ": promised by " + l.Promise.Log
}
