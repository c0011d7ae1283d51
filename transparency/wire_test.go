package transparency_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ashlar-mesh/ashlar/transparency"
)

const vectorPrivate = `{"salt":"00112233445566778899aabbccddeeff","details":{"remote":"192.0.2.7:4711"},"verdict":{"verdict":"accepted"}}`

var vectorEntries = []string{
	`{"version":1,"seq":0,"time":"2026-11-22T19:00:00Z","kind":"start","subject":"coordinator","text":"opened its state","details":{"tee":"tdx","version":"1.0.0"}}`,
	`{"version":1,"seq":1,"time":"2026-11-22T19:00:01Z","kind":"manifestSet","subject":"` + strings.Repeat("60", 32) + `","actor":"alice","text":"manifest 606060606060 is revision 1, set by alice","details":{"previous":"","revision":"1"}}`,
	`{"version":1,"seq":2,"time":"2026-11-22T19:00:02.5Z","kind":"activationAccepted","subject":"web","decision":"web/7f2c19ab","actor":"web","details":{"instance":"7f2c19ab-0000-4000-8000-000000000001","tee":"tdx"},"evidence":"` + strings.Repeat("70", 32) + `","private":"PRIVATE"}`,
}

// logVector makes the vector of docs/wire.md. Roots and proofs are those of an
// independent implementation.
func logVector(t *testing.T) string {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	key := ed25519.NewKeyFromSeed(seed)
	s, err := transparency.NewSigner(key, transparency.Origin(key.Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	private := sha256.Sum256([]byte(vectorPrivate))
	var b strings.Builder
	fmt.Fprintf(&b, "seed: %x\nlog-key: %s\nprivate-2: %s\nprivate-2-sha256: %x\n", seed, s.VerifierKey(), vectorPrivate, private)
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(at))
		for i, n := range at {
			found[i] = stored[n]
		}
		return found, nil
	})
	var leaf [32]byte
	for n, text := range vectorEntries {
		text = strings.Replace(text, "PRIVATE", hex.EncodeToString(private[:]), 1)
		e, err := transparency.ParseEntry([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Private) > 0 {
			if _, err := transparency.ParsePrivate(e, []byte(vectorPrivate)); err != nil {
				t.Fatal(err)
			}
		}
		more, err := tlog.StoredHashes(int64(n), []byte(text), reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		leaf = transparency.LeafHash([]byte(text))
		fmt.Fprintf(&b, "entry-%d: %s\nleaf-hash-%d: %x\n", n, text, n, leaf)
	}
	root, err := tlog.TreeHash(3, reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := transparency.Sign(transparency.Checkpoint{Origin: s.Name(), Size: 3, Root: root}, s)
	if err != nil {
		t.Fatal(err)
	}
	inclusion, err := tlog.ProveRecord(3, 1, reader)
	if err != nil {
		t.Fatal(err)
	}
	consistency, err := tlog.ProveTree(3, 2, reader)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "inclusion-1-in-3:\n%s", hashes(inclusion))
	fmt.Fprintf(&b, "consistency-2-to-3:\n%s", hashes(consistency))
	fmt.Fprintf(&b, "promise-2: %x\n", s.Promise(2, leaf).Signature)
	fmt.Fprintf(&b, "checkpoint-sha256: %x\ncheckpoint:\n  %s", sha256.Sum256(signed), strings.TrimSuffix(strings.ReplaceAll(string(signed), "\n", "\n  "), "  "))
	return strings.ReplaceAll(b.String(), "\n  \n", "\n\n")
}

func hashes[T ~[]tlog.Hash](all T) (lines string) {
	for _, h := range all {
		lines += fmt.Sprintf("  %x\n", h[:])
	}
	return lines
}

// TestWireVector holds the vector of docs/wire.md against the code.
func TestWireVector(t *testing.T) {
	doc, err := os.ReadFile("../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	want := logVector(t)
	got := regexp.MustCompile("(?s)```vector log\n(.*?)```").FindSubmatch(doc)
	if got == nil || string(got[1]) != want {
		t.Errorf("the vector differs; want\n```vector log\n%s```", want)
	}
}
