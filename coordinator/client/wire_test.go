package client

import (
	"bytes"
	"encoding/hex"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestAcceptanceVector checks the proof in docs/wire.md, and that it counts for
// nothing else.
func TestAcceptanceVector(t *testing.T) {
	doc, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```vector acceptance\n(.*?)```").FindSubmatch(doc)
	if block == nil {
		t.Fatal("docs/wire.md has no vector acceptance")
	}
	value := func(key string) string {
		t.Helper()
		found := regexp.MustCompile(`(?m)^` + key + `:\s+(.*)$`).FindSubmatch(block[1])
		if found == nil {
			t.Fatalf("the vector has no %s", key)
		}
		return string(found[1])
	}
	bytesOf := func(key string) []byte {
		t.Helper()
		b, err := hex.DecodeString(value(key))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	size, err := strconv.ParseUint(value("size"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	a := apiv1.Acceptance{Record: []byte(value("record")), After: bytesOf("after")}
	s := apiv1.Statement{Manifest: attest.Hex(bytes.Repeat([]byte{0x60}, 32)), Revision: 1, Checkpoint: apiv1.Checkpoint{Size: size, Hash: bytesOf("checkpoint")}}
	accepted, err := checkAcceptance(s, a, func(uint64, []byte) {})
	if err != nil || accepted.Seq != 3 || accepted.Actor != "alice" {
		t.Fatalf("got %+v, %v, want record 3 by alice", accepted, err)
	}
	for name, edit := range map[string]func(*apiv1.Statement, *apiv1.Acceptance){
		"another manifest": func(s *apiv1.Statement, _ *apiv1.Acceptance) { s.Manifest = make([]byte, 32) },
		"another revision": func(s *apiv1.Statement, _ *apiv1.Acceptance) { s.Revision = 2 },
		"another head":     func(s *apiv1.Statement, _ *apiv1.Acceptance) { s.Checkpoint.Hash = make([]byte, 32) },
		"a longer log":     func(s *apiv1.Statement, _ *apiv1.Acceptance) { s.Checkpoint.Size++ },
		"a cut log":        func(_ *apiv1.Statement, a *apiv1.Acceptance) { a.After = a.After[:32] },
		"white space": func(_ *apiv1.Statement, a *apiv1.Acceptance) {
			a.Record = []byte(strings.Replace(string(a.Record), ",", ", ", 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, a := s, a
			edit(&s, &a)
			if got, err := checkAcceptance(s, a, func(uint64, []byte) {}); problem.CodeOf(err) != "CRD-122" || got != nil {
				t.Errorf("got %v, want CRD-122", err)
			}
		})
	}
}
