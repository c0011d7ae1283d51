package audit_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newLog(t *testing.T) (*audit.Log, *store.Store) {
	t.Helper()
	s := storetest.Create(t, storetest.NewDisk().Engine())
	return audit.New(s, rand.Reader), s
}

func appendAll(t *testing.T, l *audit.Log, s *store.Store, rs ...audit.Record) []audit.Entry {
	t.Helper()
	var entries []audit.Entry
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		for _, r := range rs {
			e, err := l.Append(tx, r)
			if err != nil {
				return err
			}
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("appending: %v", err)
	}
	verify(t, l)
	return entries
}

// verify is the invariant of every test here.
func verify(t *testing.T, l *audit.Log) audit.Checkpoint {
	t.Helper()
	c, err := l.Verify(t.Context())
	if err != nil {
		t.Fatalf("verifying: %v", err)
	}
	return c
}

func decision(i int) audit.Record {
	return audit.Record{
		Time: noon, Kind: audit.ActivationAccepted, Subject: fmt.Sprintf("m%d", i%3), Decision: fmt.Sprintf("m%d/%d", i%3, i),
		Text: "accepted", Details: map[string]string{"b": "2", "a": "1"}, Verdict: json.RawMessage(`{"verdict":"accepted"}`),
	}
}

func TestAppendAndRead(t *testing.T) {
	l, s := newLog(t)
	if c := verify(t, l); c != (audit.Checkpoint{Root: sha256.Sum256(nil)}) {
		t.Errorf("empty log: got checkpoint %v, want the empty tree", c)
	}
	var want []audit.Entry
	for i := range 5 {
		want = append(want, appendAll(t, l, s, decision(2*i), decision(2*i+1))...)
	}
	got, err := l.Read(t.Context(), 0, 100)
	if err != nil || len(got) != 10 {
		t.Fatalf("got %d entries, %v; want 10", len(got), err)
	}
	for i, e := range got {
		if e.Seq != uint64(i) || e.Hash.String() != want[i].Hash.String() || e.Decision != want[i].Decision {
			t.Errorf("entry %d: got %d %s %s, want %s %s", i, e.Seq, e.Decision, e.Hash, want[i].Decision, want[i].Hash)
		}
	}
	if got, err := l.Read(t.Context(), 8, 100); err != nil || len(got) != 2 {
		t.Errorf("from 8: got %d entries, %v; want 2", len(got), err)
	}
	if got, err := l.Read(t.Context(), 10, 100); err != nil || len(got) != 0 {
		t.Errorf("past the end: got %d entries, %v; want 0", len(got), err)
	}
}

func TestFailedUpdateLeavesNoRecord(t *testing.T) {
	l, s := newLog(t)
	appendAll(t, l, s, decision(0))
	wanted := errors.New("no")
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		if _, err := l.Append(tx, decision(1)); err != nil {
			return err
		}
		return wanted
	})
	if !errors.Is(err, wanted) {
		t.Fatalf("got %v, want %v", err, wanted)
	}
	if c := verify(t, l); c.Size != 1 {
		t.Errorf("got %d records, want 1", c.Size)
	}
	if _, err := l.ByDecision(t.Context(), "m1/1"); problem.CodeOf(err) != "STO-020" {
		t.Errorf("got %v, want STO-020", err)
	}
	appendAll(t, l, s, decision(2))
	if e, err := l.ByDecision(t.Context(), "m2/2"); err != nil || e.Seq != 1 {
		t.Errorf("got record %d, %v; want 1", e.Seq, err)
	}
}

func TestQueries(t *testing.T) {
	l, s := newLog(t)
	const n = 25_000 // more than the index holds, less than a search looks through
	for i := 0; i < n; {
		var rs []audit.Record
		for range 5000 {
			rs = append(rs, decision(i))
			i++
		}
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			for _, r := range rs {
				if _, err := l.Append(tx, r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{0, 1, 499, 500, 12_000, n - 10_000, n - 1} {
		e, err := l.ByDecision(t.Context(), fmt.Sprintf("m%d/%d", i%3, i))
		if err != nil || e.Seq != uint64(i) {
			t.Errorf("decision %d: got record %d, %v", i, e.Seq, err)
		}
	}
	if _, err := l.ByDecision(t.Context(), "m0/1"); problem.CodeOf(err) != "STO-020" {
		t.Errorf("unknown decision: got %v, want STO-020", err)
	}
	got, err := l.Recent(t.Context(), audit.Query{Subject: "m1", Kinds: []audit.Kind{audit.ActivationAccepted}, Limit: 3})
	if err != nil || len(got) != 3 {
		t.Fatalf("got %d entries, %v; want 3", len(got), err)
	}
	for i, e := range got {
		if want := uint64(n - 3 - 3*i); e.Subject != "m1" || e.Seq != want {
			t.Errorf("entry %d: got record %d of %s, want record %d of m1", i, e.Seq, e.Subject, want)
		}
	}
	if got, err := l.Recent(t.Context(), audit.Query{Kinds: []audit.Kind{audit.Start}}); err != nil || len(got) != 0 {
		t.Errorf("other kind: got %d entries, %v; want 0", len(got), err)
	}
}

func TestLimits(t *testing.T) {
	l, s := newLog(t)
	long := decision(0)
	long.Text = strings.Repeat("ä", 10_000)
	long.Verdict = json.RawMessage(`"` + strings.Repeat("v", 100_000) + `"`)
	e := appendAll(t, l, s, long)[0]
	if len(e.Text) > 1024 || !strings.HasSuffix(e.Text, "ä…") {
		t.Errorf("text of %d bytes, ends in %q", len(e.Text), e.Text[len(e.Text)-6:])
	}
	if e.Verdict != nil || e.Details["verdictBytes"] != "100002" {
		t.Errorf("verdict of %d bytes, details %v; want none and a note", len(e.Verdict), e.Details)
	}
	many := decision(1)
	for i := range 40 {
		many.Details[fmt.Sprint(i)] = ""
	}
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		_, err := l.Append(tx, many)
		return err
	})
	if problem.CodeOf(err) != "STO-009" {
		t.Errorf("40 details: got %v, want STO-009", err)
	}
}

func TestCallersWithoutIdentityCannotGrowTheLog(t *testing.T) {
	l, _ := newLog(t)
	at := noon
	for day := range 3 {
		for minute := range 60 {
			at = noon.Add(time.Duration(day)*24*time.Hour + time.Duration(minute)*time.Minute)
			for range 100 {
				if err := l.AppendAnonymous(t.Context(), audit.Record{Time: at, Kind: audit.UserRefused}); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Flush(t.Context(), at, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Flush(t.Context(), at, true); err != nil {
		t.Fatal(err)
	}
	c := verify(t, l)
	if limit := uint64(3 * (1000 + 61)); c.Size > limit {
		t.Errorf("18,000 refusals made %d records, want at most %d", c.Size, limit)
	}
	total := 0
	for from := uint64(0); from < c.Size; {
		entries, err := l.Read(t.Context(), from, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			n := 1
			if e.Kind == audit.Suppressed {
				fmt.Sscan(e.Details[string(audit.UserRefused)], &n)
			}
			total += n
		}
		from += uint64(len(entries))
	}
	if total != 3*60*100 {
		t.Errorf("the log accounts for %d refusals, want %d", total, 3*60*100)
	}
}

// TestForm holds the two parts of a record against what docs/wire.md says of
// them: anybody may read what the kind discloses, and nothing else.
func TestForm(t *testing.T) {
	l, s := newLog(t)
	accepted := decision(0)
	accepted.Details = map[string]string{"serial": "5e", "remote": "192.0.2.7:4711", "newDetail": "x"}
	unknown := audit.Record{Time: noon, Kind: "new", Subject: "s", Actor: "alice", Code: "CRD-001", Text: "told", Details: map[string]string{"serial": "5e"}}
	set := audit.Record{Time: noon, Kind: audit.ManifestSet, Subject: "60", Text: "told", Details: map[string]string{"revision": "1"}}
	entries := appendAll(t, l, s, accepted, unknown, set)
	for i, want := range []struct{ public, private string }{
		{`{"version":1,"seq":0,"time":"2026-11-22T12:00:00Z","kind":"activationAccepted","subject":"m0","decision":"m0/0","details":{"serial":"5e"},"private":"P"}`,
			`{"salt":"S","text":"accepted","details":{"newDetail":"x","remote":"192.0.2.7:4711"},"verdict":{"verdict":"accepted"}}`},
		{`{"version":1,"seq":1,"time":"2026-11-22T12:00:00Z","kind":"new","subject":"s","actor":"alice","code":"CRD-001","private":"P"}`,
			`{"salt":"S","text":"told","details":{"serial":"5e"}}`},
		{`{"version":1,"seq":2,"time":"2026-11-22T12:00:00Z","kind":"manifestSet","subject":"60","text":"told","details":{"revision":"1"}}`, ""},
	} {
		e := entries[i]
		public := want.public
		if want.private != "" {
			p, err := transparency.ParsePrivate(transparency.Entry{Private: sum(e.Private)}, e.Private)
			if err != nil {
				t.Fatal(err)
			}
			public = strings.Replace(public, `"P"`, `"`+attest.Hex(sum(e.Private)).String()+`"`, 1)
			want.private = strings.Replace(want.private, `"S"`, `"`+p.Salt.String()+`"`, 1)
		}
		if string(e.Public) != public || string(e.Private) != want.private {
			t.Errorf("record %d: got\n%s\n%s\nwant\n%s\n%s", i, e.Public, e.Private, public, want.private)
		}
		if leaf := sum(append([]byte{0}, e.Public...)); !bytes.Equal(e.Hash, leaf) {
			t.Errorf("record %d: got leaf hash %s, want %x", i, e.Hash, leaf)
		}
		read, err := l.Read(t.Context(), uint64(i), 1)
		if err != nil || string(read[0].Public) != public || string(read[0].Private) != want.private || read[0].Text == "" || len(read[0].Details) == 0 {
			t.Errorf("record %d: read %+v, %v", i, read, err)
		}
	}
	if a, b := appendAll(t, l, s, accepted)[0].Private, entries[0].Private; bytes.Equal(a, b) {
		t.Error("two private parts have the same salt")
	}
}

func sum(b []byte) []byte {
	h := sha256.Sum256(b)
	return h[:]
}

// BenchmarkAppend appends records such as activations have, 100 to an Update.
func BenchmarkAppend(b *testing.B) {
	s := storetest.Create(b, storetest.NewDisk().Engine())
	l := audit.New(s, rand.Reader)
	r := decision(0)
	var steps strings.Builder
	for i := range 40 {
		fmt.Fprintf(&steps, `,{"code":"ATT-%03d","field":"step %x","ok":true,"want":"%x","got":"holds"}`, i, sum([]byte{byte(i)})[:8], sum([]byte{byte(i)}))
	}
	r.Verdict = json.RawMessage(`{"steps":[` + steps.String()[1:] + `]}`)
	r.Details["tee"] = "sgx"
	for left := b.N; left > 0; left -= min(left, 100) {
		var last audit.Entry
		err := s.Update(b.Context(), func(tx *store.Tx) error {
			for range min(left, 100) {
				var err error
				if last, err = l.Append(tx, r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		l.Committed(last)
	}
}
