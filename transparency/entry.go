package transparency

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	// EntryVersion is the version of entries and of their private parts.
	EntryVersion = 1
	// SaltSize is the length of the salt of a private part, in bytes.
	SaltSize = 16
	// MaxPrivate is the size limit of the private part of an entry, in bytes.
	MaxPrivate = 64 << 10
)

// Entry is one decision as anybody may see it: a leaf of the log, as JSON with
// the fields in this order and maps in the order of their keys. Which kinds there
// are, and which details are public, is in docs/wire.md.
type Entry struct {
	Version  int               `json:"version"` // 1
	Seq      uint64            `json:"seq"`     // place in the log, from 0
	Time     time.Time         `json:"time"`    // by the coordinator's clock, UTC
	Kind     string            `json:"kind"`
	Subject  string            `json:"subject,omitempty"`  // marble, manifest digest, …
	Decision string            `json:"decision,omitempty"` // id, such as "web/7f2c19ab"
	Actor    string            `json:"actor,omitempty"`    // user or marble that asked; empty for nobody
	Code     string            `json:"code,omitempty"`     // problem code, when refused
	Text     string            `json:"text,omitempty"`     // one line for people
	Details  map[string]string `json:"details,omitempty"`
	Evidence attest.Hex        `json:"evidence,omitempty"` // attest.Evidence.Digest
	Private  attest.Hex        `json:"private,omitempty"`  // SHA-256 of the private part; absent if there is none
}

// Private is what only users of the manifest may read of a decision. The salt,
// new for each, keeps anybody from guessing the rest by its hash.
type Private struct {
	Salt    attest.Hex        `json:"salt"`           // 16 random bytes
	Text    string            `json:"text,omitempty"` // instead of a public one
	Details map[string]string `json:"details,omitempty"`
	Verdict json.RawMessage   `json:"verdict,omitempty"` // attest.Verdict as json.Marshal wrote it
}

// ParseEntry reads an entry of at most MaxEntry bytes in its only form. LOG-011.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) > MaxEntry {
		return Entry{}, problem.New("LOG-011", "it has %d bytes, limit %d", len(b), MaxEntry)
	}
	var e Entry
	if err := json.Unmarshal(b, &e); err != nil {
		return Entry{}, problem.Because(err, "LOG-011", "reading it")
	}
	if e.Version != EntryVersion || e.Kind == "" || len(e.Evidence)%sha256.Size != 0 || len(e.Private)%sha256.Size != 0 {
		return Entry{}, problem.New("LOG-011", "it has version %d and kind %.40q, or a digest of another size", e.Version, e.Kind)
	}
	again, err := json.Marshal(e)
	if err != nil || !bytes.Equal(again, b) {
		return Entry{}, problem.New("LOG-011", "it is not written in its only form")
	}
	return e, nil
}

// ParsePrivate reads the private part of an entry, and checks that it is the one
// that the entry names. LOG-012.
func ParsePrivate(e Entry, b []byte) (Private, error) {
	if len(b) > MaxPrivate {
		return Private{}, problem.New("LOG-012", "it has %d bytes, limit %d", len(b), MaxPrivate)
	}
	if sum := sha256.Sum256(b); !bytes.Equal(sum[:], e.Private) {
		return Private{}, problem.New("LOG-012", "its SHA-256 is %s, entry %d names %.64s", attest.Hex(sum[:]), e.Seq, e.Private)
	}
	var p Private
	if err := json.Unmarshal(b, &p); err != nil {
		return Private{}, problem.Because(err, "LOG-012", "reading it")
	}
	if len(p.Salt) != SaltSize {
		return Private{}, problem.New("LOG-012", "its salt has %d bytes, want %d", len(p.Salt), SaltSize)
	}
	return p, nil
}
