package transparency_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

func TestTilePaths(t *testing.T) {
	for path, want := range map[string]transparency.Tile{
		"tile/0/x001/x234/067":                {Level: 0, Index: 1234067, Width: 256},
		"tile/1/000.p/17":                     {Level: 1, Index: 0, Width: 17},
		"tile/entries/273.p/112":              {Level: -1, Index: 273, Width: 112},
		"tile/entries/x001/000":               {Level: -1, Index: 1000, Width: 256},
		"tile/7/x018/x014/398/":               {},
		"tile/8/000":                          {},
		"tile/-1/000":                         {},
		"tile/data/000":                       {},
		"tile/00/000":                         {},
		"tile/0/0":                            {},
		"tile/0/x000/000":                     {},
		"tile/0/001/000":                      {},
		"tile/0/000.p/256":                    {},
		"tile/0/000.p/0":                      {},
		"tile/0/000.p/07":                     {},
		"tile/0/000.p/":                       {},
		"0/000":                               {},
		"tile/":                               {},
		"tile/entries/entries/000":            {},
		"tile/0/x018/x014/x398/x509/x481/984": {}, // 2^54
	} {
		got, err := transparency.ParseTilePath(path)
		if want.Width == 0 {
			if problem.CodeOf(err) != "LOG-007" {
				t.Errorf("%s: got %+v, %v, want LOG-007", path, got, err)
			}
			continue
		}
		if err != nil || got != want || got.Path() != path {
			t.Errorf("%s: got %+v (%s), %v, want %+v", path, got, got.Path(), err, want)
		}
	}
}

// TestTileAt takes the widths that c2sp.org/tlog-tiles gives for 70,000 entries.
func TestTileAt(t *testing.T) {
	for _, c := range []struct {
		level       int
		index, size uint64
		want        string
		end         uint64
	}{
		{0, 69_999, 70_000, "tile/0/273.p/112", 70_000},
		{0, 69_887, 70_000, "tile/0/272", 69_888},
		{1, 0, 70_000, "tile/1/000", 65_536},
		{1, 69_000, 70_000, "tile/1/001.p/17", 69_888},
		{2, 5, 70_000, "tile/2/000.p/1", 65_536},
		{-1, 3, 70_000, "tile/entries/000", 256},
		{1, 0, 256, "tile/1/000.p/1", 256},
	} {
		if got := transparency.TileAt(c.level, c.index, c.size); got.Path() != c.want || got.End() != c.end {
			t.Errorf("level %d, entry %d of %d: got %s to %d, want %s to %d", c.level, c.index, c.size, got.Path(), got.End(), c.want, c.end)
		}
	}
	if got := transparency.TileAt(3, 0, 70_000); got.Width != 0 {
		t.Errorf("above the tree: got %+v, want none", got)
	}
}

func TestEntriesOfATile(t *testing.T) {
	var bundle []byte
	for _, e := range []string{"one", "", "three"} {
		var err error
		if bundle, err = transparency.AppendEntry(bundle, []byte(e)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := transparency.ParseEntries(bundle, 3); err != nil || len(got) != 3 || string(got[0]) != "one" || len(got[1]) != 0 || string(got[2]) != "three" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := transparency.AppendEntry(nil, make([]byte, transparency.MaxEntry+1)); problem.CodeOf(err) != "LOG-008" {
		t.Errorf("a long entry: got %v, want LOG-008", err)
	}
	for name, c := range map[string]struct {
		bundle []byte
		width  int
	}{"fewer": {bundle, 4}, "more": {bundle, 2}, "cut": {bundle[:len(bundle)-1], 3}, "half a length": {bundle[:1], 1}, "none": {nil, 0}, "too many": {nil, 257}} {
		if got, err := transparency.ParseEntries(c.bundle, c.width); problem.CodeOf(err) != "LOG-008" {
			t.Errorf("%s: got %q, %v, want LOG-008", name, got, err)
		}
	}
}

func TestPromise(t *testing.T) {
	s := signer(t, 1)
	good := s.Promise(7, [32]byte{9})
	if err := transparency.VerifyPromise(good, s.VerifierKey()); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		p    transparency.Promise
		key  string
		code problem.Code
	}{
		"another index":     {transparency.Promise{Index: 8, Leaf: good.Leaf, Signature: good.Signature}, s.VerifierKey(), "LOG-009"},
		"another entry":     {transparency.Promise{Index: 7, Leaf: [32]byte{8}, Signature: good.Signature}, s.VerifierKey(), "LOG-009"},
		"another signature": {transparency.Promise{Index: 7, Leaf: good.Leaf}, s.VerifierKey(), "LOG-009"},
		"another log":       {good, signer(t, 2).VerifierKey(), "LOG-009"},
		"no key":            {good, "", "LOG-003"},
	} {
		if err := transparency.VerifyPromise(c.p, c.key); problem.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
}

func TestProofsAreRead(t *testing.T) {
	empty := transparency.Checkpoint{Origin: "o", Root: transparency.EmptyRoot()}
	one := transparency.Checkpoint{Origin: "o", Size: 1, Root: transparency.LeafHash([]byte("x"))}
	if err := transparency.VerifyConsistency(empty, one, nil); err != nil {
		t.Errorf("from nothing: %v", err)
	}
	long := make(transparency.Proof, transparency.MaxProof+1)
	for i := range long {
		long[i] = make([]byte, 32)
	}
	strange := one
	strange.Origin = "p"
	for name, c := range map[string]struct {
		older, newer transparency.Checkpoint
		proof        transparency.Proof
	}{
		"another log":            {one, strange, nil},
		"backwards":              {one, empty, nil},
		"another empty root":     {transparency.Checkpoint{Origin: "o"}, one, nil},
		"two roots":              {one, transparency.Checkpoint{Origin: "o", Size: 1}, nil},
		"a proof of the obvious": {one, one, transparency.Proof{make(attest.Hex, 32)}},
		"too long":               {empty, one, long},
		"half a hash":            {empty, one, transparency.Proof{make(attest.Hex, 16)}},
	} {
		if err := transparency.VerifyConsistency(c.older, c.newer, c.proof); problem.CodeOf(err) != "LOG-005" {
			t.Errorf("%s: got %v, want LOG-005", name, err)
		}
	}
	if err := transparency.VerifyInclusion(0, one.Root, long, one); problem.CodeOf(err) != "LOG-004" {
		t.Errorf("too long: got %v, want LOG-004", err)
	}
}

func TestEntriesAreRead(t *testing.T) {
	good := transparency.Entry{Version: 1, Seq: 3, Time: time.Unix(5, 0).UTC(), Kind: "start", Details: map[string]string{"a": "<1>"}}
	b, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := transparency.ParseEntry(b); err != nil || got.Seq != 3 || got.Details["a"] != "<1>" {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"white space":      bytes.Replace(b, []byte(":"), []byte(": "), 1),
		"another version":  bytes.Replace(b, []byte(`"version":1`), []byte(`"version":2`), 1),
		"another case":     bytes.Replace(b, []byte(`"kind"`), []byte(`"Kind"`), 1),
		"unknown":          bytes.Replace(b, []byte(`"kind"`), []byte(`"more":1,"kind"`), 1),
		"twice":            bytes.Replace(b, []byte(`"kind"`), []byte(`"kind":"stop","kind"`), 1),
		"another escape":   bytes.Replace(b, []byte(`\u003c`), []byte(`<`), 1),
		"no kind":          bytes.Replace(b, []byte(`"start"`), []byte(`""`), 1),
		"short private":    bytes.Replace(b, []byte(`}}`), []byte(`},"private":"00"}`), 1),
		"something behind": append(bytes.Clone(b), '\n'),
		"too long":         make([]byte, transparency.MaxEntry+1),
	} {
		if got, err := transparency.ParseEntry(b); problem.CodeOf(err) != "LOG-011" {
			t.Errorf("%s: got %+v, %v, want LOG-011", name, got, err)
		}
	}
	for name, private := range map[string]string{
		"not named":  `{"salt":"00112233445566778899aabbccddeeff"}`,
		"no salt":    `{}`,
		"short salt": `{"salt":"00"}`,
		"no JSON":    `x`,
	} {
		e := good
		if name != "not named" {
			sum := sha256.Sum256([]byte(private))
			e.Private = sum[:]
		}
		if p, err := transparency.ParsePrivate(e, []byte(private)); problem.CodeOf(err) != "LOG-012" {
			t.Errorf("%s: got %+v, %v, want LOG-012", name, p, err)
		}
	}
}
