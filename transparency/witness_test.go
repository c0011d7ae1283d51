package transparency_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
	"github.com/ashlar-mesh/ashlar/transparency/logtest"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func seed(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func witness(t testing.TB, name string, b byte) *logtest.Witness {
	t.Helper()
	w, err := logtest.NewWitness(name, seed(b), func() time.Time { return noon })
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// The example of c2sp.org/tlog-cosignature, whose witness key is not published:
// the name, the key ID and the time are read out of it.
const specNote = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" +
	"— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"

func TestWitnessKeys(t *testing.T) {
	k := witness(t, "witness.example/w1", 9).Key()
	again, err := transparency.ParseWitnessKey(k.String())
	if err != nil || again != k {
		t.Fatalf("got %v, %v, want %v", again, err, k)
	}
	parts := strings.SplitN(k.String(), "+", 3)
	for name, bad := range map[string]string{
		"empty": "", "no key": parts[0] + "+" + parts[1], "other ID": parts[0] + "+00000000+" + parts[2], "upper ID": parts[0] + "+" + strings.ToUpper(parts[1]) + "+" + parts[2],
		"no name": "+" + parts[1] + "+" + parts[2], "space": "a b+" + parts[1] + "+" + parts[2], "not base64": parts[0] + "+" + parts[1] + "+!",
		"log key": filled(0).VerifierKey(), "ML-DSA": "w+00000000+Bg==", "short": "w+00000000+BAAA", "line": k.String() + "\n",
	} {
		if got, err := transparency.ParseWitnessKey(bad); problem.CodeOf(err) != "LOG-080" {
			t.Errorf("%s: got %v, %v, want LOG-080", name, got, err)
		}
	}
	other := witness(t, "another.example", 9).Key() // the same key under another name
	if _, err := transparency.ParseWitnessKeys([]string{k.String(), other.String()}); problem.CodeOf(err) != "LOG-080" {
		t.Errorf("one key twice: got %v, want LOG-080", err)
	}
	if (transparency.WitnessKey{}).Verify([]byte("x"), make([]byte, 72)) {
		t.Error("the zero key accepts a co-signature")
	}
}

func TestCosignatures(t *testing.T) {
	l := filled(3)
	w1, w2 := witness(t, "w1.example", 1), witness(t, "w2.example", 2)
	signed := l.Note(3)
	for _, w := range []*logtest.Witness{w1, w2} {
		if err := w.Trust(l.VerifierKey()); err != nil {
			t.Fatal(err)
		}
		a := w.Add(transparency.WitnessRequest{Note: signed}.Encode())
		co, err := a.Cosignature(signed, l.VerifierKey(), w.Key())
		if err != nil || !co.Time.Equal(noon) || co.Witness != w.Key().Name() {
			t.Fatalf("got %+v, %v", co, err)
		}
		signed = append(signed, co.Line...)
	}
	open := func(signed []byte, keys ...transparency.WitnessKey) (int, error) {
		c, found, err := transparency.OpenCosigned(signed, l.VerifierKey(), keys)
		if err == nil && c != l.Checkpoint(3) {
			t.Errorf("got %+v, want %+v", c, l.Checkpoint(3))
		}
		return len(found), err
	}
	for want, keys := range [][]transparency.WitnessKey{{}, {w1.Key()}, {w2.Key(), w1.Key()}} {
		if n, err := open(signed, keys...); n != want || err != nil {
			t.Errorf("got %d, %v, want %d", n, err, want)
		}
	}
	if n, err := open(signed, witness(t, "w3.example", 3).Key()); n != 0 || err != nil {
		t.Errorf("a stranger: got %d, %v, want 0", n, err)
	}
	// Each part of a co-signature is held: time, signature, body.
	line := strings.LastIndex(string(signed), " ") + 1
	for _, at := range []int{line + 8, line + 20, line + 60} {
		bad := bytes.Clone(signed)
		if bad[at]++; bad[at] == '=' || bad[at] == '/'+1-1 {
			bad[at] = 'A'
		}
		if _, err := open(bad, w2.Key()); problem.CodeOf(err) != "LOG-081" {
			t.Errorf("byte %d changed: got %v, want LOG-081", at, err)
		}
	}
	c, found, err := transparency.OpenCosigned(signed, filled(0).VerifierKey(), nil)
	if err != nil || len(found) != 0 || c.Size != 3 {
		t.Errorf("without witnesses: got %+v, %d, %v", c, len(found), err)
	}
}

func TestCosignedNoteOfTheSpecification(t *testing.T) {
	// cosignature/v1 is over the body alone: what the specification shows.
	body := specNote[:strings.Index(specNote, "\n\n")+1]
	c, err := transparency.NewCosigner("witness.example.com/w1", seed(4))
	if err != nil {
		t.Fatal(err)
	}
	line, err := c.Cosign([]byte(specNote), time.Unix(1679315147, 0))
	if err != nil || !strings.HasPrefix(string(line), "— witness.example.com/w1 ") {
		t.Fatalf("got %q, %v", line, err)
	}
	msg := []byte("cosignature/v1\ntime 1679315147\n" + body)
	raw := decode64(t, strings.Fields(string(line))[2])
	if !ed25519.Verify(seed(4).Public().(ed25519.PublicKey), msg, raw[12:]) {
		t.Error("the signature is not over the message of the specification")
	}
	if !c.Key().Verify([]byte(body), raw[4:]) {
		t.Error("its own key does not verify it")
	}
	if got := fmt.Sprintf("%v %+v %s", c, c, c); strings.Contains(got, fmt.Sprintf("%x", seed(4)[:8])) {
		t.Errorf("a co-signer prints its key: %s", got)
	}
}

func TestWitnessFollowsTheSpecification(t *testing.T) {
	l, w := filled(600), witness(t, "w1.example", 1)
	fork := filled(599)
	fork.Append([]byte("another"))
	ask := func(l *logtest.Log, old, size uint64) transparency.WitnessAnswer {
		p, err := transparency.NewReader(l.Checkpoint(size), l.Tile).Consistency(old)
		if err != nil && old <= size {
			t.Fatal(err)
		}
		return w.Add(transparency.WitnessRequest{Old: old, Proof: p, Note: l.Note(size)}.Encode())
	}
	check := func(what string, a transparency.WitnessAnswer, status int, stale string) {
		t.Helper()
		size, ok := a.Stale()
		if got := fmt.Sprint(size, ok); a.Status != status || got != stale {
			t.Errorf("%s: got %d and %s, want %d and %s", what, a.Status, got, status, stale)
		}
	}
	check("a log that it does not know", ask(l, 0, 10), http.StatusNotFound, "0 false")
	if err := w.Trust(l.VerifierKey()); err != nil {
		t.Fatal(err)
	}
	check("the first", ask(l, 0, 10), http.StatusOK, "0 false")
	check("the same again", ask(l, 10, 10), http.StatusOK, "0 false")
	check("from a size that it has not", ask(l, 5, 600), http.StatusConflict, "10 true")
	check("the next", ask(l, 10, 600), http.StatusOK, "0 false")
	check("back", ask(l, 10, 300), http.StatusConflict, "600 true")
	check("larger than the checkpoint", ask(l, 600, 300), http.StatusBadRequest, "0 false")
	check("a fork of the same size", ask(fork, 600, 600), http.StatusConflict, "0 false")
	fork.Append([]byte("more"))
	check("a longer fork", ask(fork, 600, 601), http.StatusUnprocessableEntity, "0 false")
	bad := l.Note(600)
	bad[len(bad)-5] ^= 1
	check("another signature", w.Add(transparency.WitnessRequest{Old: 600, Note: bad}.Encode()), http.StatusForbidden, "0 false")
	check("nothing", w.Add(nil), http.StatusBadRequest, "0 false")
	if c, _ := w.Newest(l.Signer().Name()); c != l.Checkpoint(600) {
		t.Errorf("it keeps %+v, want %+v", c, l.Checkpoint(600))
	}
}

func TestWitnessAnswers(t *testing.T) {
	l, w := filled(5), witness(t, "w1.example", 1)
	if err := w.Trust(l.VerifierKey()); err != nil {
		t.Fatal(err)
	}
	signed := l.Note(5)
	good := w.Add(transparency.WitnessRequest{Note: signed}.Encode())
	other, err := transparency.NewCosigner("w1.example", seed(7))
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := other.Cosign(signed, noon)
	for _, c := range []struct {
		name string
		a    transparency.WitnessAnswer
		code problem.Code
	}{
		{"good", good, ""},
		{"good after one of a key that it does not name", transparency.WitnessAnswer{Status: 200, Body: append(bytes.Clone(foreign), good.Body...)}, ""},
		{"garbage before it", transparency.WitnessAnswer{Status: 200, Body: append([]byte("<html>\n\n"), good.Body...)}, ""},
		{"empty", transparency.WitnessAnswer{Status: 200}, "LOG-081"},
		{"only another's", transparency.WitnessAnswer{Status: 200, Body: foreign}, "LOG-081"},
		{"of another checkpoint", transparency.WitnessAnswer{Status: 200, Body: mustCosign(t, seed(1), l.Note(4))}, "LOG-081"},
		{"too long", transparency.WitnessAnswer{Status: 200, Body: make([]byte, 1<<20)}, "LOG-081"},
		{"conflict", transparency.WitnessAnswer{Status: 409}, "LOG-084"},
		{"no proof", transparency.WitnessAnswer{Status: 422}, "LOG-084"},
		{"unknown", transparency.WitnessAnswer{Status: 404}, "LOG-083"},
		{"down", transparency.WitnessAnswer{Status: 503, Body: []byte("x")}, "LOG-083"},
	} {
		if _, err := c.a.Cosignature(signed, l.VerifierKey(), w.Key()); problem.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %q", c.name, err, c.code)
		}
	}
}

func mustCosign(t *testing.T, key ed25519.PrivateKey, signed []byte) []byte {
	t.Helper()
	c, err := transparency.NewCosigner("w1.example", key)
	if err != nil {
		t.Fatal(err)
	}
	line, err := c.Cosign(signed, noon)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func TestStaleSizes(t *testing.T) {
	for _, c := range []struct {
		kind, body string
		want       string
	}{
		{"text/x.tlog.size", "0\n", "0 true"}, {"text/x.tlog.size", "50\n", "50 true"}, {"text/x.tlog.size; charset=utf-8", "51\n", "51 true"},
		{"text/x.tlog.size", "50", "0 false"}, {"text/plain", "50\n", "0 false"}, {"text/x.tlog.size", "-1\n", "0 false"}, {"", "", "0 false"},
		{"text/x.tlog.size", "99999999999999999999\n", "0 false"},
	} {
		size, ok := transparency.WitnessAnswer{Status: 409, Type: c.kind, Body: []byte(c.body)}.Stale()
		if got := fmt.Sprint(size, ok); ok && got != c.want || !ok && c.want[len(c.want)-5:] != "false" {
			t.Errorf("%q %q: got %s, want %s", c.kind, c.body, got, c.want)
		}
	}
}

func FuzzWitnessRequest(f *testing.F) {
	l := filled(300)
	p, err := transparency.NewReader(l.Checkpoint(300), l.Tile).Consistency(17)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(transparency.WitnessRequest{Old: 17, Proof: p, Note: l.Note(300)}.Encode())
	f.Add([]byte("old 0\n\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := transparency.ParseWitnessRequest(body)
		if err == nil && !bytes.Equal(r.Encode(), body) {
			t.Errorf("%q is read as %q", body, r.Encode())
		}
	})
}

func FuzzWitnessAnswer(f *testing.F) {
	l, w := filled(5), witness(f, "w1.example", 1)
	if err := w.Trust(l.VerifierKey()); err != nil {
		f.Fatal(err)
	}
	signed := l.Note(5)
	f.Add(200, "text/plain", w.Add(transparency.WitnessRequest{Note: signed}.Encode()).Body)
	f.Add(409, "text/x.tlog.size", []byte("17\n"))
	f.Fuzz(func(t *testing.T, status int, kind string, body []byte) {
		a := transparency.WitnessAnswer{Status: status, Type: kind, Body: body}
		a.Stale()
		co, err := a.Cosignature(signed, l.VerifierKey(), w.Key())
		if err == nil && !co.Time.Equal(noon) {
			t.Errorf("accepted a co-signature of %s", co.Time)
		}
	})
}

func decode64(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzWitnessKey(f *testing.F) {
	f.Add(witness(f, "w1.example", 1).Key().String())
	f.Add(filled(0).VerifierKey())
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := transparency.ParseWitnessKey(text); err == nil && k.String() != text {
			t.Errorf("%q is read as %q", text, k)
		}
	})
}
