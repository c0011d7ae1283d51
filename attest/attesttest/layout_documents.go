package attesttest

import (
	"bytes"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// flat returns claims by path: "sgx.uniqueID".
func flat(t *testing.T, c attest.Claims) map[string]any {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			out[prefix] = v
			return
		}
		for k, v := range m {
			if prefix != "" {
				k = prefix + "." + k
			}
			walk(k, v)
		}
	}
	walk("", doc)
	return out
}

// refusedDocument is the step at which a damaged document is refused, and, where
// that is another, a damaged certificate of its chain.
var refusedDocument = map[string][2]string{
	attest.KindTCBInfo:    {"ATT-023 tcbInfo.signature", "ATT-023 tcbInfo.signature"},
	attest.KindQEIdentity: {"ATT-023 qeIdentity.signature", "ATT-023 qeIdentity.signature"},
	attest.KindPCKCRL:     {"ATT-020 pckCRL.signature", "ATT-020 pckCRL.chain"},
	attest.KindRootCRL:    {"ATT-020 rootCRL.signature", ""},
	attest.KindVCEK:       {"ATT-006 vcek.chain", ""},
	attest.KindVLEK:       {"ATT-006 vlek.chain", ""},
	attest.KindAMDCRL:     {"ATT-020 crl.signature", ""},
}

// documentRegions changes each field of each document and certificate beside
// good evidence: each is refused at its own step.
func documentRegions(t *testing.T, v attest.Verifier, good Sample) {
	refused := func(what string, it attest.Endorsement, want string) {
		t.Helper()
		items := append(slices.Clone(good.Endorsements.Items()), it)
		_, steps := v.Verify(good.Evidence, attest.NewEndorsements(items...), good.At)
		if got := failures(steps); len(got) == 0 || got[0] != want {
			t.Errorf("%s: got %v, want %s first", what, got, want)
		}
	}
	for _, it := range good.Endorsements.Items() {
		want, known := refusedDocument[it.Kind]
		if !known {
			continue
		}
		for name, body := range changedDocuments(t, it) {
			refused(it.Kind+" "+name, attest.Endorsement{Kind: it.Kind, Body: body, Chain: it.Chain}, want[0])
		}
		for name, chain := range changedChains(t, it.Chain) {
			refused("chain of "+it.Kind+" "+name, attest.Endorsement{Kind: it.Kind, Body: it.Body, Chain: chain}, want[1])
		}
	}
}

// index is where a path goes into a list.
var index = regexp.MustCompile(`\.\d+`)

// changedDocuments returns a document with each of its fields changed, of the
// items of a list those of the first that has the field.
func changedDocuments(t *testing.T, it attest.Endorsement) map[string][]byte {
	t.Helper()
	if it.Kind != attest.KindTCBInfo && it.Kind != attest.KindQEIdentity {
		return changedDER(t, it.Body)
	}
	root, faults := jsonpos.Parse(it.Body, jsonpos.Limits{Depth: 32, Values: 1 << 16})
	if len(faults) > 0 {
		t.Fatalf("%s: %v", it.Kind, faults)
	}
	out := map[string][]byte{}
	seen := map[string]bool{}
	var walk func(path string, n *jsonpos.Node)
	walk = func(path string, n *jsonpos.Node) {
		for i := range n.Members {
			walk(path+"."+n.Members[i].Key, n.Members[i].Value)
		}
		for i, item := range n.Items {
			walk(fmt.Sprintf("%s.%d", path, i), item)
		}
		field := index.ReplaceAllString(path, ".*")
		if seen[field] {
			return
		}
		body := bytes.Clone(it.Body)
		changeScalar(body[n.Start:n.End], n.Kind)
		if !bytes.Equal(body, it.Body) {
			out[path], seen[field] = body, true
		}
	}
	walk("", root)
	return out
}

// changeScalar changes a string or number and keeps it one.
func changeScalar(text []byte, kind jsonpos.Kind) {
	switch kind {
	case jsonpos.Number:
		text[0] = '1' + (text[0]-'0')%9
	case jsonpos.String:
		if len(text) < 3 {
			return // empty
		}
		last := &text[len(text)-2]
		if *last == '1' {
			*last = '2'
		} else {
			*last = '1'
		}
	}
}

// changedChains returns a PEM chain with each field of each certificate changed.
func changedChains(t *testing.T, chain []byte) map[string][]byte {
	t.Helper()
	var blocks []*pem.Block
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block)
	}
	out := map[string][]byte{}
	for i, b := range blocks {
		for name, der := range changedDER(t, b.Bytes) {
			var all []byte
			for j, c := range blocks {
				if j == i {
					c = &pem.Block{Type: c.Type, Bytes: der}
				}
				all = append(all, pem.EncodeToMemory(c)...)
			}
			out[fmt.Sprintf("certificate %d %s", i, name)] = all
		}
	}
	return out
}

// changedDER returns a certificate or CRL with the content of each field
// changed: those of the signed part one by one, the algorithm, the signature.
func changedDER(t *testing.T, der []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	whole := elements(t, der)
	for i, e := range whole {
		if i > 0 {
			out[fmt.Sprintf("outer field %d", i)] = flipLast(der, e)
			continue
		}
		for k, inner := range elements(t, der[e[0]:e[1]]) {
			out[fmt.Sprintf("field %d", k)] = flipLast(der, [2]int{e[0] + inner[0], e[0] + inner[1]})
		}
	}
	return out
}

// elements returns where the elements of a DER sequence begin and end.
func elements(t *testing.T, der []byte) [][2]int {
	t.Helper()
	var seq asn1.RawValue
	if _, err := asn1.Unmarshal(der, &seq); err != nil {
		t.Fatal(err)
	}
	at := len(seq.FullBytes) - len(seq.Bytes)
	var out [][2]int
	for rest := seq.Bytes; len(rest) > 0; {
		var e asn1.RawValue
		next, err := asn1.Unmarshal(rest, &e)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, [2]int{at, at + len(e.FullBytes)})
		at, rest = at+len(e.FullBytes), next
	}
	return out
}

// flipLast changes a bit of the last byte of an element.
func flipLast(der []byte, e [2]int) []byte {
	b := bytes.Clone(der)
	b[e[1]-1] ^= 1
	return b
}
