package apiv1

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the vector replica-key in docs/wire.md anew")

const wireDoc = "../../docs/wire.md"

// TestReplicaKeyVector opens the vector of docs/wire.md, and nothing else.
func TestReplicaKeyVector(t *testing.T) {
	key, err := hpke.DHKEM(ecdh.X25519()).NewPrivateKey(counted(1))
	if err != nil {
		t.Fatal(err)
	}
	good := ReplicaBinding{Root: []byte("root certificate"), Nonce: counted(0)}
	block := regexp.MustCompile("(?s)```vector replica-key\n.*?```")
	doc, err := os.ReadFile(wireDoc)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		sealed, err := SealReplicaKey(key.PublicKey().Bytes(), good, counted(0x60))
		if err != nil {
			t.Fatal(err)
		}
		doc = block.ReplaceAllLiteral(doc, []byte(replicaVector(key, good, sealed)))
		if err := os.WriteFile(wireDoc, doc, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	found := block.Find(doc)
	text := regexp.MustCompile(`(?s)sealed:\n(.*)\nkey:`).FindSubmatch(found)
	if text == nil {
		t.Fatal("docs/wire.md has no vector replica-key")
	}
	sealed, err := hex.DecodeString(string(regexp.MustCompile(`\s`).ReplaceAll(text[1], nil)))
	if err != nil {
		t.Fatal(err)
	}
	if want := replicaVector(key, good, sealed); string(found) != want {
		t.Errorf("docs/wire.md has\n%s\nwant\n%s", found, want)
	}
	if got, err := OpenReplicaKey(key, good, sealed); err != nil || !bytes.Equal(got, counted(0x60)) {
		t.Errorf("got %x, %v", got, err)
	}
	other, err := NewUploadKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key    hpke.PrivateKey
		bound  ReplicaBinding
		sealed []byte
	}{
		"another key":   {other, good, sealed},
		"another root":  {key, ReplicaBinding{Root: []byte("root"), Nonce: good.Nonce}, sealed},
		"another nonce": {key, ReplicaBinding{Root: good.Root, Nonce: counted(2)}, sealed},
		"changed":       {key, good, append(bytes.Clone(sealed[:79]), sealed[79]^1)},
		"cut":           {key, good, sealed[:79]},
		"longer":        {key, good, append(bytes.Clone(sealed), 0)},
		"empty":         {key, good, nil},
	} {
		if got, err := OpenReplicaKey(c.key, c.bound, c.sealed); err == nil {
			t.Errorf("%s: got %x", name, got)
		}
	}
	for _, public := range [][]byte{nil, make([]byte, 31), make([]byte, 32), make([]byte, 33)} {
		if _, err := SealReplicaKey(public, good, counted(0)); err == nil {
			t.Errorf("sealed to the key %x", public)
		}
	}
}

func counted(from byte) []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

func replicaVector(key hpke.PrivateKey, b ReplicaBinding, sealed []byte) string {
	info := b.info()
	return fmt.Sprintf("```vector replica-key\nprivate-key: %x\npublic-key: %x\nroot: %x\nnonce: %x\ninfo:\n  %x\n  %x\nsealed:\n  %x\n  %x\nkey: %x\n```",
		counted(1), key.PublicKey().Bytes(), b.Root, b.Nonce, info[:48], info[48:], sealed[:48], sealed[48:], counted(0x60))
}

func TestReplicaNames(t *testing.T) {
	for name, want := range map[string]bool{
		"m1": true, "a": true, "ashlar-coordinator-0": true, "M1": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "a-": false, "a.b": false, "a_b": false, "a b": false, "a\n": false, "../x": false, "é": false, strings.Repeat("a", 64): false,
	} {
		if got := IsReplicaName(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}
