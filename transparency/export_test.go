package transparency_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tlogproof "github.com/transparency-dev/formats/proof"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
	"github.com/ashlar-mesh/ashlar/transparency/logtest"
)

func digest(revision int) string {
	if revision == 0 {
		return ""
	}
	sum := sha256.Sum256(fmt.Append(nil, revision))
	return hex.EncodeToString(sum[:])
}

// decisions is a log of n entries as a coordinator writes them: every tenth sets
// a manifest, the others accept a marble and have a private part.
func decisions(t testing.TB, n int) (*logtest.Log, [][]byte) {
	t.Helper()
	l := logtest.NewLog(1)
	privates := make([][]byte, n)
	for i := range n {
		e := transparency.Entry{Version: 1, Seq: uint64(i), Time: noon.Add(time.Duration(i) * time.Second), Kind: "activationAccepted", Subject: "web", Decision: fmt.Sprintf("web/%08x", i)}
		if i%10 == 1 {
			rev := i/10 + 1
			e = transparency.Entry{Version: 1, Seq: uint64(i), Time: e.Time, Kind: transparency.KindManifestSet, Subject: digest(rev), Actor: "alice", Text: "<set & done>",
				Details: map[string]string{"revision": fmt.Sprint(rev), "previous": digest(rev - 1)}}
		} else {
			privates[i] = encode(t, transparency.Private{Salt: bytes.Repeat([]byte{byte(i)}, 16), Text: "let in"})
			sum := sha256.Sum256(privates[i])
			e.Private = sum[:]
		}
		l.Append(encode(t, e))
	}
	return l, privates
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func export(t testing.TB, l *logtest.Log, privates [][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := transparency.NewExportWriter(&b, l.VerifierKey(), l.Note(l.Size()))
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range l.Entries() {
		if err := w.Add(e, privates[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func lines(file []byte) []string {
	return strings.SplitAfter(strings.TrimSuffix(string(file), "\n"), "\n")
}

func joined(lines []string) []byte {
	s := strings.Join(lines, "")
	if !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return []byte(s)
}

func TestExport(t *testing.T) {
	l, privates := decisions(t, 600)
	file := export(t, l, privates)
	if !transparency.IsExport(file[:40]) || transparency.IsExport([]byte("{}")) {
		t.Error("an export is not known by its beginning")
	}
	r, err := transparency.VerifyExport(bytes.NewReader(file), transparency.ExportInput{Log: l.VerifierKey(),
		Seen: []transparency.Checkpoint{l.Checkpoint(0), l.Checkpoint(7), l.Checkpoint(600)}})
	if err != nil || r.Err() != nil {
		t.Fatalf("got %v, %v", err, r.Err())
	}
	if r.Entries != 600 || r.Privates != 540 || len(r.Revisions) != 60 || r.Seen != 3 || r.Checkpoint != l.Checkpoint(600) {
		t.Errorf("got %d entries, %d private, %d revisions, %d compared", r.Entries, r.Privates, len(r.Revisions), r.Seen)
	}
	if last := r.Revisions[59]; last != (transparency.Revision{Seq: 591, Number: 60, Digest: digest(60), Previous: digest(59)}) {
		t.Errorf("got last revision %+v", last)
	}
}

// TestDamagedExport changes an export in each way that somebody may. What is
// wrong is named with its place.
func TestDamagedExport(t *testing.T) {
	l, privates := decisions(t, 30)
	good := lines(export(t, l, privates))
	if len(good) != 31 {
		t.Fatalf("got %d lines", len(good))
	}
	fork, forkPrivates := decisions(t, 29)
	fork.Append(encode(t, transparency.Entry{Version: 1, Seq: 29, Time: noon, Kind: "start"}))
	forked := export(t, fork, append(forkPrivates, nil))
	foreign := logtest.NewLog(2)
	line := func(place int) string { return good[place+1] }
	without := func(place, n int) []byte { return joined(slices.Delete(slices.Clone(good), place+1, place+1+n)) }
	replaced := func(place int, by string) []byte {
		c := slices.Clone(good)
		c[place+1] = by
		return joined(c)
	}
	put := func(place int, what string) []byte { return joined(slices.Insert(slices.Clone(good), place+1, what)) }
	// forge writes an entry anew, with the hash that fits it.
	forge := func(place int, change func(*transparency.Entry)) string {
		e, err := transparency.ParseEntry(l.Entries()[place])
		if err != nil {
			t.Fatal(err)
		}
		change(&e)
		raw := encode(t, e)
		leaf := transparency.LeafHash(raw)
		text, _ := json.Marshal(string(raw))
		return fmt.Sprintf(`{"leaf":"%x","entry":%s}`+"\n", leaf, text)
	}
	swapped := slices.Clone(good)
	swapped[6], swapped[13] = swapped[13], swapped[6]
	seen := []transparency.Checkpoint{l.Checkpoint(10), l.Checkpoint(20)}
	for _, c := range []struct {
		name  string
		file  []byte
		code  problem.Code
		entry uint64
		text  string
	}{
		{"dropped", without(5, 1), "LOG-061", 5, "entry 5 is missing"},
		{"several dropped", without(5, 3), "LOG-061", 5, "entries 5 to 7 are missing"},
		{"the first dropped", without(0, 1), "LOG-061", 0, "entry 0 is missing"},
		{"the end dropped", without(27, 3), "LOG-061", 27, "entries 27 to 29 are missing"},
		{"a revision dropped", without(11, 1), "LOG-061", 11, "entry 11 is missing"},
		{"altered", replaced(5, strings.Replace(line(5), `\"web\"`, `\"pay\"`, 1)), "LOG-062", 5, "entry 5 was altered"},
		{"altered into nonsense", replaced(5, strings.Replace(line(5), `activation`, `{`, 1)), "LOG-062", 5, "entry 5 was altered"},
		{"its hash altered", replaced(5, strings.Replace(line(5), `{"leaf":"`+line(5)[9:11], `{"leaf":"`+flip(line(5)[9:11]), 1)), "LOG-062", 5, "entry 5 was altered"},
		{"altered with its hash", replaced(15, forge(15, func(e *transparency.Entry) { e.Subject = "pay" })), "LOG-065", 10, "one of entries 10 to 19"},
		{"altered with its hash at the end", replaced(29, forge(29, func(e *transparency.Entry) { e.Subject = "pay" })), "LOG-065", 20, "one of entries 20 to 29"},
		{"reordered", joined(swapped), "LOG-063", 6, "entry 6 stands after entry 12"},
		{"inserted", put(9, forge(8, func(e *transparency.Entry) { e.Subject = "pay" })), "LOG-064", 8, "two say that they are entry 8"},
		{"repeated", put(9, line(8)), "LOG-064", 8, "two say that they are entry 8"},
		{"put in the middle, of a place to come", put(9, forge(8, func(e *transparency.Entry) { e.Seq = 99 })), "LOG-064", 99, "entry 99 was put in"},
		{"put at the end", append(bytes.Clone(joined(good)), forge(8, func(e *transparency.Entry) { e.Seq = 30 })...), "LOG-064", 30, "entry 30 was put in"},
		{"private part of another", replaced(5, strings.Replace(line(5), line(5)[strings.Index(line(5), `"private":"{`):], line(6)[strings.Index(line(6), `"private":"{`):], 1)), "LOG-012", 5, "private part of entry 5"},
		{"a revision rewritten", replaced(11, forge(11, func(e *transparency.Entry) { e.Details["previous"] = digest(7) })), "LOG-054", 11, "entry 11 sets revision 2"},
		{"a revision hidden", replaced(11, forge(11, func(e *transparency.Entry) { e.Kind = "start" })), "LOG-054", 21, "entry 21 sets revision 3"},
		{"another history", forked, "", 0, ""},
	} {
		r, err := transparency.VerifyExport(bytes.NewReader(c.file), transparency.ExportInput{Log: l.VerifierKey(), Seen: seen})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.code == "" {
			if r.Err() != nil {
				t.Errorf("%s: got %v, want nothing", c.name, r.Err())
			}
			continue
		}
		if len(r.Findings) == 0 || r.Findings[0].Code != c.code || r.Findings[0].Entry != c.entry || !strings.Contains(r.Findings[0].Text, c.text) || problem.CodeOf(r.Err()) != c.code || c.code == "LOG-064" && len(r.Findings) != 1 {
			t.Errorf("%s: got %+v, want %s at %d: %s", c.name, r.Findings, c.code, c.entry, c.text)
		}
	}
	for _, c := range []struct {
		name string
		file []byte
		in   transparency.ExportInput
		code problem.Code
	}{
		{"another log", joined(good), transparency.ExportInput{Log: foreign.VerifierKey()}, "LOG-052"},
		{"a checkpoint of another log", joined(good), transparency.ExportInput{Seen: []transparency.Checkpoint{foreign.Checkpoint(0)}}, "LOG-052"},
		{"another checkpoint", joined(slices.Concat([]string{strings.Replace(good[0], `\n30\n`, `\n29\n`, 1)}, good[1:])), transparency.ExportInput{}, "LOG-002"},
		{"another key", joined(slices.Concat([]string{strings.ReplaceAll(good[0], l.VerifierKey(), foreign.VerifierKey())}, good[1:])), transparency.ExportInput{}, "LOG-002"},
		{"empty", nil, transparency.ExportInput{}, "LOG-060"},
		{"not an export", []byte("{}\n"), transparency.ExportInput{}, "LOG-060"},
		{"cut off", joined(good)[:2000], transparency.ExportInput{}, "LOG-060"},
		{"an unknown field", replaced(3, strings.Replace(line(3), `{"leaf"`, `{"x":1,"leaf"`, 1)), transparency.ExportInput{}, "LOG-060"},
		{"a field twice", replaced(3, strings.Replace(line(3), `{"leaf"`, `{"leaf":"00","leaf"`, 1)), transparency.ExportInput{}, "LOG-060"},
		{"a blank line", put(3, "\n"), transparency.ExportInput{}, "LOG-060"},
		{"a long line", put(3, strings.Repeat("x", 1<<20)+"\n"), transparency.ExportInput{}, "LOG-060"},
	} {
		if _, err := transparency.VerifyExport(bytes.NewReader(c.file), c.in); problem.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
	}
	r, err := transparency.VerifyExport(bytes.NewReader(forked), transparency.ExportInput{Log: l.VerifierKey(), Seen: []transparency.Checkpoint{l.Checkpoint(10), l.Checkpoint(30)}})
	if err != nil || problem.CodeOf(r.Err()) != "LOG-051" || r.Findings[0].Entry != 30 {
		t.Errorf("a fork after what was seen: got %+v, %v, want LOG-051", r.Findings, err)
	}
}

func flip(hex string) string {
	if hex == "00" {
		return "11"
	}
	return "00"
}

func proofFile(t testing.TB) (transparency.ProofFile, *logtest.Log) {
	t.Helper()
	l, privates := decisions(t, 300)
	leaf, path, err := transparency.NewReader(l.Checkpoint(300), l.Tile).Inclusion(42)
	if err != nil || leaf != transparency.LeafHash(l.Entries()[42]) {
		t.Fatal(err)
	}
	return transparency.ProofFile{Log: l.VerifierKey(), Index: 42, Entry: l.Entries()[42], Private: privates[42], Certificate: []byte{0x30, 0}, Proof: path, Note: l.Note(300)}, l
}

func TestProofFile(t *testing.T) {
	p, l := proofFile(t)
	file, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := transparency.ParseProofFile(file)
	if err != nil || !transparency.IsProofFile(file[:40]) {
		t.Fatal(err)
	}
	shown, err := again.Verify(l.VerifierKey(), nil)
	if err != nil || shown.Entry.Decision != "web/0000002a" || shown.Private == nil || shown.Private.Text != "let in" || shown.Checkpoint.Size != 300 {
		t.Fatalf("got %+v, %v", shown, err)
	}
	// Another implementation of the format reads the same.
	var theirs tlogproof.TLogProof
	if err := theirs.Unmarshal(file); err != nil || theirs.Index != 42 || !bytes.Equal(theirs.Checkpoint, p.Note) || len(theirs.Hashes) != len(p.Proof) {
		t.Errorf("transparency-dev reads %+v, %v", theirs, err)
	}
	if !bytes.Equal(theirs.Marshal(), file) {
		t.Error("transparency-dev writes it in another way")
	}
	other, _ := decisions(t, 299)
	for _, c := range []struct {
		name   string
		vkey   string
		change func(*transparency.ProofFile)
		code   problem.Code
	}{
		{"another log", logtest.NewLog(2).VerifierKey(), nil, "LOG-052"},
		{"another index", "", func(p *transparency.ProofFile) { p.Index++ }, "LOG-004"},
		{"another entry", "", func(p *transparency.ProofFile) { p.Entry = l.Entries()[43] }, "LOG-004"},
		{"another hash", "", func(p *transparency.ProofFile) { p.Proof[3] = attest.Hex(make([]byte, 32)) }, "LOG-004"},
		{"a hash less", "", func(p *transparency.ProofFile) { p.Proof = p.Proof[1:] }, "LOG-004"},
		{"another checkpoint", "", func(p *transparency.ProofFile) { p.Note = other.Note(299) }, "LOG-004"},
		{"another signature", "", func(p *transparency.ProofFile) {
			p.Note = bytes.Replace(p.Note, []byte("\n300\n"), []byte("\n301\n"), 1)
		}, "LOG-002"},
		{"another private part", "", func(p *transparency.ProofFile) { p.Private = []byte("{}") }, "LOG-012"},
		{"no key", "", func(p *transparency.ProofFile) { p.Log = "x" }, "LOG-003"},
	} {
		bad := p
		bad.Proof = slices.Clone(p.Proof)
		if c.change != nil {
			c.change(&bad)
		}
		if _, err := bad.Verify(c.vkey, nil); problem.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
	}
	// An entry that is in the tree at a place that it does not name.
	l.Append(l.Entries()[42])
	_, path, err := transparency.NewReader(l.Checkpoint(301), l.Tile).Inclusion(300)
	if err != nil {
		t.Fatal(err)
	}
	bad := transparency.ProofFile{Log: l.VerifierKey(), Index: 300, Entry: p.Entry, Proof: path, Note: l.Note(301)}
	if _, err := bad.Verify("", nil); problem.CodeOf(err) != "LOG-004" {
		t.Errorf("an entry in another place: got %v, want LOG-004", err)
	}
	for name, bad := range map[string]string{
		"empty": "", "no header": strings.Replace(string(file), "v1", "v2", 1), "no extra": strings.Replace(string(file), "extra ", "", 1),
		"leading zero": strings.Replace(string(file), "index 42", "index 042", 1), "negative": strings.Replace(string(file), "index 42", "index -1", 1),
		"no index": strings.Replace(string(file), "index 42\n", "", 1), "a short hash": strings.Replace(string(file), "index 42\n", "index 42\nAAAA\n", 1),
		"carriage returns": strings.ReplaceAll(string(file), "\n", "\r\n"), "too long": string(file) + strings.Repeat("x", transparency.MaxProofFile),
	} {
		if _, err := transparency.ParseProofFile([]byte(bad)); problem.CodeOf(err) != "LOG-070" {
			t.Errorf("%s: got %v, want LOG-070", name, err)
		}
	}
}

func FuzzExport(f *testing.F) {
	l, privates := decisions(f, 12)
	f.Add(export(f, l, privates))
	f.Add([]byte(`{"export":"ashlar-log","version":1,"log":"","checkpoint":""}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := transparency.VerifyExport(bytes.NewReader(b), transparency.ExportInput{Log: l.VerifierKey(), Seen: []transparency.Checkpoint{l.Checkpoint(12)}})
		if err == nil && r.Err() == nil && r.Entries != 12 {
			t.Errorf("accepted an export of %d entries", r.Entries)
		}
	})
}

func FuzzProofFile(f *testing.F) {
	p, l := proofFile(f)
	file, err := p.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := transparency.ParseProofFile(b)
		if err != nil {
			return
		}
		if again, err := p.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q is read as %q, %v", b, again, err)
		}
		if shown, err := p.Verify(l.VerifierKey(), nil); err == nil && shown.Entry.Seq >= 300 {
			t.Errorf("proved entry %d", shown.Entry.Seq)
		}
	})
}

// BenchmarkVerifyExport judges an export of 10,000 entries.
func BenchmarkVerifyExport(b *testing.B) {
	l, privates := decisions(b, 10_000)
	file := export(b, l, privates)
	in := transparency.ExportInput{Log: l.VerifierKey(), Seen: []transparency.Checkpoint{l.Checkpoint(5000)}}
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		if r, err := transparency.VerifyExport(bytes.NewReader(file), in); err != nil || r.Err() != nil {
			b.Fatal(err, r.Err())
		}
	}
}

// BenchmarkReadEntries reads 10,000 entries through tiles, each checked.
func BenchmarkReadEntries(b *testing.B) {
	l, _ := decisions(b, 10_000)
	at := l.Checkpoint(10_000)
	for b.Loop() {
		r := transparency.NewReader(at, l.Tile)
		for next := uint64(0); next < at.Size; {
			entries, err := r.Entries(next)
			if err != nil {
				b.Fatal(err)
			}
			next += uint64(len(entries))
		}
	}
}
