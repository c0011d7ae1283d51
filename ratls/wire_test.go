package ratls

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/sim"
)

const wireDoc = "../docs/wire.md"

var update = flag.Bool("update", false, "rewrite the test vectors in docs/wire.md")

// vector is one block of docs/wire.md: ```vector NAME, lines "key: value", ```.
type vector struct {
	name  string
	lines [][2]string
}

func (v vector) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "```vector %s\n", v.name)
	for _, l := range v.lines {
		value := l[1]
		fmt.Fprintf(&b, "%s:", l[0])
		for first := true; first || value != ""; first = false {
			n := min(len(value), 96)
			sep := "\n  "
			if first && len(value) <= 96 {
				sep = " "
			}
			b.WriteString(sep + value[:n])
			value = value[n:]
		}
		b.WriteString("\n")
	}
	return b.String() + "```"
}

// run returns n bytes that count up from start.
func run(start byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = start + byte(i)
	}
	return b
}

func claimsVector(name string, c binding.Claims, inputs ...[2]string) vector {
	b := c.Binding()
	return vector{name, append(inputs,
		[2]string{"claims-buffer", hex.EncodeToString(c.Encode())},
		[2]string{"report-data", hex.EncodeToString(b[:])})}
}

func vectors(t *testing.T) []vector {
	t.Helper()
	spki := append(bytes.Clone(p256Prefix), run(0, 65)...)
	key := binding.KeyHash(spki)
	nonce, exporter := run(0x00, 32), run(0x20, 32)
	h := hex.EncodeToString
	in := func(extra ...[2]string) [][2]string {
		return append([][2]string{{"pubkey-sha256", h(key[:])}}, extra...)
	}
	activate := binding.Claims{Purpose: binding.Activate, PublicKey: key, Nonce: nonce, Exporter: exporter}
	statement := binding.Claims{
		Purpose: binding.Coordinator, PublicKey: key, Nonce: nonce,
		Root: run(0x40, 32), Manifest: run(0x60, 32), Checkpoint: run(0x80, 32), Log: run(0xa0, 32),
	}
	peer := binding.Claims{Purpose: binding.Peer, PublicKey: key}
	joiner, _ := hex.DecodeString("07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c")
	replica := binding.Claims{Purpose: binding.Replica, PublicKey: binding.KeyHashX25519(joiner), Nonce: nonce, Exporter: exporter}
	all := []vector{
		{"pubkey-hash", [][2]string{{"spki", h(spki)}, {"pubkey-sha256", h(key[:])}}},
		claimsVector("activate", activate, in([2]string{"nonce", h(nonce)}, [2]string{"exporter", h(exporter)})...),
		claimsVector("coordinator", statement, in([2]string{"nonce", h(nonce)}, [2]string{"root", h(statement.Root)},
			[2]string{"manifest", h(statement.Manifest)}, [2]string{"checkpoint", h(statement.Checkpoint)}, [2]string{"log", h(statement.Log)})...),
		claimsVector("peer", peer, in()...),
		claimsVector("replica", replica, [2]string{"public-key", h(joiner)}, [2]string{"pubkey-sha256", h(replica.PublicKey[:])},
			[2]string{"nonce", h(nonce)}, [2]string{"exporter", h(exporter)}),
	}
	header := make([]byte, 48)
	copy(header, []byte{3, 0, 2, 0})
	for _, c := range []struct {
		name string
		tee  attest.TEE
	}{{"extension-ccc", attest.SGX}, {"extension-cmw", attest.SimSGX}} {
		ext, err := Extension(attest.Evidence{TEE: c.tee, Raw: header}, peer.Encode())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, vector{c.name, [][2]string{
			{"oid", ext.Id.String()}, {"evidence", h(header)}, {"claims-buffer", h(peer.Encode())}, {"value", h(ext.Value)},
		}})
	}
	script := sha256.Sum256([]byte("print('hello')\n"))
	files := attest.FilesDigest(map[string]attest.Hex{"app.py": script[:]})
	var frame bytes.Buffer
	b := activate.Binding()
	req := sim.Request{Op: sim.OpEvidence, TEE: attest.SimSGX, Binding: b[:], Program: sim.ByFD(7), Files: []sim.File{{Name: "app.py", FD: 8}}}
	if err := sim.WriteMessage(&frame, req, sim.MaxRequest); err != nil {
		t.Fatal(err)
	}
	return append(all,
		vector{"files-digest", [][2]string{{"name", "app.py"}, {"sha256", h(script[:])}, {"files-digest", h(files[:])}}},
		vector{"sim-request", [][2]string{{"length", h(frame.Bytes()[:4])}, {"json", string(frame.Bytes()[4:])}}})
}

// p256Prefix is the DER in front of the point of a P-256 key.
var p256Prefix = []byte{0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
	0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00}

// TestWireVectors: what docs/wire.md gives is what the code makes.
func TestWireVectors(t *testing.T) {
	doc, err := os.ReadFile(wireDoc)
	if err != nil {
		t.Fatal(err)
	}
	text := string(doc)
	if !strings.Contains(text, "`"+binding.ExporterLabel+"`") {
		t.Errorf("%s does not give the exporter label %s", wireDoc, binding.ExporterLabel)
	}
	for _, v := range vectors(t) {
		block := regexp.MustCompile("(?s)```vector " + v.name + "\n.*?```").FindString(text)
		if block == "" {
			t.Errorf("%s has no vector %q", wireDoc, v.name)
			continue
		}
		if block == v.String() {
			continue
		}
		if !*update {
			t.Errorf("vector %q differs; got\n%s\nwant\n%s", v.name, block, v)
			continue
		}
		text = strings.Replace(text, block, v.String(), 1)
	}
	if *update && text != string(doc) {
		if err := os.WriteFile(wireDoc, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
