package differential

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
)

// testCase is evidence to be judged by everybody.
type testCase struct {
	name         string // the set, and what was changed
	evidence     attest.Evidence
	endorsements attest.Endorsements
	at           time.Time
	root         *x509.Certificate // nil: the vendor's
}

// perSet is how many changed copies of each set are judged.
const perSet = 160

// seed makes the changes the same in every run.
const seed = 20260301

// cases returns the sets of the TEEs, as they are and changed.
func cases(t *testing.T, tees ...attest.TEE) []testCase {
	t.Helper()
	var sets []attesttest.Set
	for _, s := range attesttest.All(t) {
		if slices.Contains(tees, s.Evidence.TEE) {
			sets = append(sets, s)
		}
	}
	var out []testCase
	for i, s := range sets {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		base := testCase{name: s.Name, evidence: s.Evidence, endorsements: s.Endorsements, at: s.At(), root: s.Root}
		base.evidence.Raw = withoutHeader(base.evidence.Raw)
		out = append(out, base)
		m := mutator{r: r, base: base, others: sets}
		for n := range perSet {
			c := m.change()
			c.name = fmt.Sprintf("%s #%d: %s", s.Name, n, c.name)
			out = append(out, c)
		}
	}
	return out
}

// withoutHeader removes Open Enclave's header of 16 bytes, which only we read.
func withoutHeader(raw []byte) []byte {
	if bytes.HasPrefix(raw, []byte{1, 0, 0, 0, 2, 0, 0, 0}) {
		return raw[16:]
	}
	return raw
}

// mutator makes changed copies of a set.
type mutator struct {
	r      *rand.Rand
	base   testCase
	others []attesttest.Set
}

// change makes one; its name says what was changed.
func (m *mutator) change() testCase {
	c := m.base
	switch n := m.r.IntN(20); {
	case n < 9:
		c.evidence.Raw, c.name = m.bytes(c.evidence.Raw, "evidence")
	case n < 16:
		m.document(&c)
	case n == 16:
		other := m.others[m.r.IntN(len(m.others))]
		c.endorsements, c.name = other.Endorsements, "endorsements of "+other.Name
	case n == 17:
		m.swap(&c)
	default:
		days := m.r.IntN(4001) - 2000
		c.at, c.name = c.at.AddDate(0, 0, days), fmt.Sprintf("%+d days", days)
	}
	return c
}

// bytes changes bytes: one bit, one byte, a length field, a range, the end.
func (m *mutator) bytes(b []byte, what string) ([]byte, string) {
	b = bytes.Clone(b)
	if len(b) < 8 {
		return append(b, 1), what + " grown"
	}
	at := m.r.IntN(len(b) - 4)
	switch m.r.IntN(8) {
	case 0:
		return b[:at], fmt.Sprintf("%s cut to %d bytes", what, at)
	case 1:
		return append(b, make([]byte, 1+m.r.IntN(100))...), what + " with zeros behind"
	case 2:
		size := []uint32{0, 1, 0xffff, 0x7fffffff, 0xffffffff, uint32(len(b))}[m.r.IntN(6)]
		binary.LittleEndian.PutUint32(b[at:], size)
		return b, fmt.Sprintf("%s with the number %#x at %d", what, size, at)
	case 3:
		end := min(len(b), at+1+m.r.IntN(64))
		clear(b[at:end])
		return b, fmt.Sprintf("%s zero from %d to %d", what, at, end)
	case 4:
		b[at] = byte(m.r.IntN(256))
		return b, fmt.Sprintf("%s with byte %d set", what, at)
	}
	b[at] ^= 1 << m.r.IntN(8)
	return b, fmt.Sprintf("%s with a bit of byte %d flipped", what, at)
}

// document changes one endorsement or its chain.
func (m *mutator) document(c *testCase) {
	items := slices.Clone(c.endorsements.Items())
	if len(items) == 0 {
		c.evidence.Raw, c.name = m.bytes(c.evidence.Raw, "evidence")
		return
	}
	it := &items[m.r.IntN(len(items))]
	switch n := m.r.IntN(8); {
	case n == 0:
		kind := it.Kind
		items = slices.DeleteFunc(items, func(e attest.Endorsement) bool { return e.Kind == kind })
		c.name = kind + " missing"
	case n == 1 && strings.HasSuffix(it.Kind, ".json"):
		m.text(it, c)
	case n < 4 && len(it.Chain) > 0:
		it.Chain, c.name = m.bytes(it.Chain, "chain of "+it.Kind)
	default:
		it.Body, c.name = m.bytes(it.Body, it.Kind)
	}
	c.endorsements = attest.NewEndorsements(items...)
}

// text replaces a word of a signed document.
func (m *mutator) text(it *attest.Endorsement, c *testCase) {
	words := [][2]string{{"OutOfDate", "UpToDate"}, {"UpToDate", "Revoked"}, {"2025", "2035"}, {`"svn":5`, `"svn":0`}, {"fmspc", "fmspd"}, {"mrsigner", "mrSigner"}}
	w := words[m.r.IntN(len(words))]
	it.Body = bytes.Replace(it.Body, []byte(w[0]), []byte(w[1]), 1)
	c.name = fmt.Sprintf("%s with %q for %q", it.Kind, w[1], w[0])
}

// swap takes one endorsement from another set.
func (m *mutator) swap(c *testCase) {
	other := m.others[m.r.IntN(len(m.others))]
	theirs := other.Endorsements.Items()
	if len(theirs) == 0 {
		c.name = "unchanged"
		return
	}
	it := theirs[m.r.IntN(len(theirs))]
	c.endorsements = attest.NewEndorsements(append(slices.Clone(c.endorsements.Items()), it)...)
	c.name = it.Kind + " of " + other.Name
}
