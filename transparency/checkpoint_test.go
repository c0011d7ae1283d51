package transparency_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

func signer(t *testing.T, seed byte) *transparency.Signer {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	s, err := transparency.NewSigner(key, transparency.Origin(key.Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignAndOpen(t *testing.T) {
	s := signer(t, 1)
	want := transparency.Checkpoint{Origin: s.Name(), Size: 20852163, Root: [32]byte{9, 8, 7}}
	signed, err := transparency.Sign(want, s)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := transparency.Open(signed, s.VerifierKey()); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if printed := fmt.Sprintf("%v %+v %#v %x %s", s, s, s, s, s); strings.Count(printed, s.VerifierKey()) != 5 {
		t.Errorf("a signer prints %q", printed)
	}
	if _, err := transparency.Sign(want, signer(t, 2)); err == nil {
		t.Error("the key of another log signed the checkpoint")
	}
	// A log's key that signs a checkpoint of another origin.
	foreign := want
	foreign.Origin = "ashlar-log/other"
	other, err := note.Sign(&note.Note{Text: string(foreign.Marshal())}, s)
	if err != nil {
		t.Fatal(err)
	}
	text, err := note.Sign(&note.Note{Text: "something else\n"}, s)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		signed []byte
		vkey   string
		code   problem.Code
	}{
		"another key":          {signed, signer(t, 2).VerifierKey(), "LOG-002"},
		"another origin":       {other, s.VerifierKey(), "LOG-002"},
		"size changed":         {bytes.Replace(signed, []byte("20852163"), []byte("20852164"), 1), s.VerifierKey(), "LOG-002"},
		"no checkpoint":        {text, s.VerifierKey(), "LOG-001"},
		"no signature":         {want.Marshal(), s.VerifierKey(), "LOG-002"},
		"over the limit":       {bytes.Repeat([]byte{'x'}, transparency.MaxNote+1), s.VerifierKey(), "LOG-001"},
		"a key that is none":   {signed, "ashlar-log/x+00000000+AAAA", "LOG-003"},
		"a key over the limit": {signed, strings.Repeat("k", 400), "LOG-003"},
	} {
		if _, err := transparency.Open(tc.signed, tc.vkey); problem.CodeOf(err) != tc.code {
			t.Errorf("%s: got %v, want %s", name, err, tc.code)
		}
	}
}

func TestParseCheckpointIsStrict(t *testing.T) {
	const root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
	if _, err := transparency.ParseCheckpoint([]byte("example.com/behind-the-sofa\n20852163\n" + root + "\n")); err != nil {
		t.Errorf("the specification's example: %v", err)
	}
	for name, body := range map[string]string{
		"empty":               "",
		"two lines":           "o\n1\n",
		"no last newline":     "o\n1\n" + root,
		"extension":           "o\n1\n" + root + "\nmore\n",
		"no origin":           "\n1\n" + root + "\n",
		"origin with plus":    "a+b\n1\n" + root + "\n",
		"origin with space":   "a b\n1\n" + root + "\n",
		"leading zero":        "o\n01\n" + root + "\n",
		"signed size":         "o\n+1\n" + root + "\n",
		"size over 2^62":      "o\n4611686018427387905\n" + root + "\n",
		"hex root":            "o\n1\n" + strings.Repeat("00", 32) + "\n",
		"root of 31 bytes":    "o\n1\n" + root[:40] + "AA==\n",
		"root with junk bits": "o\n1\n" + root[:42] + "J=\n",
	} {
		if got, err := transparency.ParseCheckpoint([]byte(body)); problem.CodeOf(err) != "LOG-001" {
			t.Errorf("%s: got %+v, %v, want LOG-001", name, got, err)
		}
	}
}
