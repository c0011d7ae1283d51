package transparency_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ashlar-mesh/ashlar/transparency"
)

// vectorLog is the log of the vector in docs/wire.md.
func vectorLog(t *testing.T) (s *transparency.Signer, entries [][]byte, reader tlog.HashReader, signed []byte) {
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
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(at))
		for i, n := range at {
			found[i] = stored[n]
		}
		return found, nil
	})
	for n, text := range vectorEntries {
		entries = append(entries, []byte(strings.Replace(text, "PRIVATE", hex.EncodeToString(private[:]), 1)))
		more, err := tlog.StoredHashes(int64(n), entries[n], read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
	}
	root, err := tlog.TreeHash(3, read)
	if err != nil {
		t.Fatal(err)
	}
	signed, err = transparency.Sign(transparency.Checkpoint{Origin: s.Name(), Size: 3, Root: root}, s)
	if err != nil {
		t.Fatal(err)
	}
	return s, entries, read, signed
}

// filesVector makes the vectors of co-signatures, exports and proof files.
func filesVector(t *testing.T) (vector string, export []byte) {
	t.Helper()
	s, entries, reader, signed := vectorLog(t)
	cosigner, err := transparency.NewCosigner("witness.example/w1", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	line, err := cosigner.Cosign(signed, time.Date(2026, 11, 22, 19, 1, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w, err := transparency.NewExportWriter(&file, s.VerifierKey(), append(bytes.Clone(signed), line...))
	if err != nil {
		t.Fatal(err)
	}
	for n, e := range entries {
		var private []byte
		if n == 2 {
			private = []byte(vectorPrivate)
		}
		if err := w.Add(e, private); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path, err := tlog.ProveRecord(3, 1, reader)
	if err != nil {
		t.Fatal(err)
	}
	p := transparency.ProofFile{Log: s.VerifierKey(), Index: 1, Entry: entries[1], Note: signed}
	for _, h := range path {
		p.Proof = append(p.Proof, h[:])
	}
	proof, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	indent := func(b []byte) string {
		return strings.ReplaceAll("  "+strings.TrimSuffix(strings.ReplaceAll(string(b), "\n", "\n  "), "  "), "\n  \n", "\n\n")
	}
	return fmt.Sprintf("witness-seed: %x\nwitness-key: %s\nco-signature-at: 1795374060\nco-signature:\n%sexport:\n%sproof-of-1:\n%s",
		bytes.Repeat([]byte{9}, ed25519.SeedSize), cosigner.Key(), indent(line), indent(file.Bytes()), indent(proof)), file.Bytes()
}

func block(t *testing.T, name string) string {
	t.Helper()
	doc, err := os.ReadFile("../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile("(?s)```" + name + "\n(.*?)```").FindSubmatch(doc)
	if got == nil {
		t.Fatalf("docs/wire.md has no block %q", name)
	}
	return string(got[1])
}

func TestFilesVector(t *testing.T) {
	want, file := filesVector(t)
	if got := block(t, "vector log-files"); got != want {
		t.Errorf("the vector differs; want\n```vector log-files\n%s```", want)
	}
	r, err := transparency.VerifyExport(bytes.NewReader(file), transparency.ExportInput{})
	if err != nil || r.Err() != nil || r.Entries != 3 || r.Privates != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
}
