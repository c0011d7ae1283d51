package fetch_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/attest/sim/services"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestRestart finds what it kept, does not ask AMD for a certificate twice, and
// does not use what was changed on the disk.
func TestRestart(t *testing.T) {
	tdx, snp := attesttest.Load(t, tdxSet), attesttest.Load(t, "snp/msft-milan-v3-vcek")
	dir := t.TempDir()
	w := newWorld(t, tdx.At(), tdx.Endorsements, snp.Endorsements)
	w.open(dir)
	want := w.endorse(tdx.Evidence)
	w.endorse(snp.Evidence)
	w.open(dir)
	if got := w.store.States(); len(got) != 2 || len(got[0].Documents)+len(got[1].Documents) != 6 {
		t.Errorf("got %+v after a restart, want both sets", got)
	}
	w.endorse(snp.Evidence)
	if got := w.service.Requests("vcek"); got != 1 {
		t.Errorf("got %d requests for the chip's certificate, want 1", got)
	}
	w.service.Script(services.Fault{Status: 500})
	w.pass(time.Hour)
	if got := w.endorse(tdx.Evidence); got.Digest() != want.Digest() {
		t.Error("after a restart with the source down, the set is another")
	}
	files, err := filepath.Glob(filepath.Join(dir, "tdx_*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got files %v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open(dir)
	if got := w.store.States(); len(got) != 1 {
		t.Errorf("got %d sets, want that which is not damaged", len(got))
	}
}

// TestOnlyProvenChipsAreKept: a forged report of a real chip leaves nothing on
// the disk.
func TestOnlyProvenChipsAreKept(t *testing.T) {
	forged, real := attesttest.Load(t, "snp/neg-tampered-measurement"), attesttest.Load(t, "snp/msft-milan-v3-vcek")
	if !bytes.Equal(needOf(t, forged).ChipID, needOf(t, real).ChipID) {
		t.Fatal("the forged report is of another chip: choose the set that it was made from")
	}
	dir := t.TempDir()
	w := newWorld(t, real.At(), real.Endorsements)
	w.open(dir)
	files := func() int {
		names, err := filepath.Glob(filepath.Join(dir, "snp_*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	if got := w.endorse(forged.Evidence); len(got.Items()) == 0 || files() != 0 {
		t.Errorf("forged: got %d documents and %d files, want documents to judge it with and no file", len(got.Items()), files())
	}
	if w.endorse(real.Evidence); files() != 1 {
		t.Errorf("genuine: got %d files, want 1", files())
	}
}

// TestAsksAgainInTime: soon for what is not valid now, before anything ends
// otherwise.
func TestAsksAgainInTime(t *testing.T) {
	s := attesttest.Load(t, tdxSet)
	end := time.Date(2025, 7, 19, 10, 0, 35, 0, time.UTC) // of the PCK CRL
	for name, c := range map[string]struct {
		at    time.Time
		after time.Duration
		asks  bool
	}{
		"fresh":            {end.Add(-20 * 24 * time.Hour), fetch.DefaultRefresh - time.Minute, false},
		"due":              {end.Add(-20 * 24 * time.Hour), fetch.DefaultRefresh, true},
		"an hour left":     {end.Add(-time.Hour), 29 * time.Minute, false},
		"half of the hour": {end.Add(-time.Hour), 31 * time.Minute, true},
		"ended":            {end.Add(time.Second), time.Minute, true},
	} {
		w := newWorld(t, c.at, s.Endorsements)
		w.open("", w.pccs(""))
		w.endorse(s.Evidence)
		before := w.service.Requests("pckCRL")
		w.pass(c.after)
		w.endorse(s.Evidence)
		if got := w.service.Requests("pckCRL") > before; got != c.asks {
			t.Errorf("%s: asked again %t, want %t", name, got, c.asks)
		}
	}
}

// TestForgedOnDisk does not believe a well-formed file with a forged document.
func TestForgedOnDisk(t *testing.T) {
	s := attesttest.Load(t, tdxSet)
	dir := t.TempDir()
	need := endorse.Need{TEE: attest.TDX, FMSPC: attest.Hex{0xb0, 0xc0, 0x6f, 0, 0, 0}, CA: endorse.CAPlatform}
	tcb, _ := s.Endorsements.Get(attest.KindTCBInfo)
	forged := attest.Endorsement{Kind: tcb.Kind, Chain: tcb.Chain, Body: bytes.Replace(tcb.Body, []byte("OutOfDate"), []byte("UpToDate"), 1)}
	raw := bundle(t, endorse.Set{Need: need, Endorsements: attest.NewEndorsements(append(append([]attest.Endorsement{}, s.Endorsements.Items()...), forged)...)})
	if err := os.WriteFile(filepath.Join(dir, "x.endorsements.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, s.At())
	w.open(dir)
	for _, st := range w.store.States() {
		for _, d := range st.Documents {
			if d.Kind == attest.KindTCBInfo {
				t.Errorf("the forged %s is used", d.Identity)
			}
		}
	}
}

func bundle(t *testing.T, sets ...endorse.Set) []byte {
	t.Helper()
	var b endorse.Bundle
	for _, s := range sets {
		if err := b.Put(s); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := b.Export()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestImport carries a set from one store to another over an air gap.
func TestImport(t *testing.T) {
	s := attesttest.Load(t, tdxSet)
	online := newWorld(t, s.At(), s.Endorsements)
	want := online.endorse(s.Evidence)
	raw, err := online.store.Export().Export()
	if err != nil {
		t.Fatal(err)
	}
	b, err := endorse.Import(raw)
	if err != nil {
		t.Fatal(err)
	}
	gapped := newWorld(t, s.At())
	gapped.open(t.TempDir(), []fetch.Source{}...)
	if got := gapped.store.Import(b); len(got) != 1 || !got[0].Changed || got[0].Err != nil {
		t.Fatalf("got %+v, want one set taken", got)
	}
	if got := gapped.endorse(s.Evidence); got.Digest() != want.Digest() {
		t.Error("what was imported is not what was exported")
	}
	if got := gapped.store.Import(b); got[0].Changed || got[0].Err != nil {
		t.Errorf("again: got %+v, want nothing new", got)
	}
	other := endorse.Need{TEE: attest.TDX, FMSPC: attest.Hex{1, 2, 3, 4, 5, 6}, CA: endorse.CAPlatform}
	wrong, err := endorse.Import(bundle(t, endorse.Set{Need: other, Endorsements: s.Endorsements}))
	if err != nil {
		t.Fatal(err)
	}
	got := gapped.store.Import(wrong)
	if problem.CodeOf(got[0].Err) != "ATT-069" || !strings.Contains(got[0].Err.Error(), "tcbInfo/tdx/b0c06f000000") {
		t.Errorf("of another platform: got %v, want ATT-069 naming it", got[0].Err)
	}
}

// TestLearn takes what evidence was judged with elsewhere, where no source
// answers, and nothing that is forged or older than what is at hand.
func TestLearn(t *testing.T) {
	s := attesttest.Load(t, tdxSet)
	w := newWorld(t, s.At(), s.Endorsements)
	w.open("", []fetch.Source{}...)
	tcb, _ := s.Endorsements.Get(attest.KindTCBInfo)
	forged := attest.Endorsement{Kind: tcb.Kind, Chain: tcb.Chain, Body: bytes.Replace(tcb.Body, []byte("OutOfDate"), []byte("UpToDate"), 1)}
	if err := w.store.Learn(s.Evidence, attest.NewEndorsements(forged)); err == nil || len(w.store.States()) != 0 {
		t.Errorf("forged: got %v and %d sets, want an error and none", err, len(w.store.States()))
	}
	for name, odd := range map[string]attest.Evidence{"of a TEE that nobody verifies": {TEE: attest.SimSGX, Raw: s.Evidence.Raw}, "of no platform": {TEE: attest.TDX}} {
		if err := w.store.Learn(odd, s.Endorsements); err != nil || len(w.store.States()) != 0 {
			t.Errorf("evidence %s: got %v and %d sets, want none", name, err, len(w.store.States()))
		}
	}
	if err := w.store.Learn(s.Evidence, s.Endorsements); err != nil {
		t.Fatal(err)
	}
	if got := w.endorse(s.Evidence); got.Digest() != s.Endorsements.Digest() {
		t.Errorf("got %d documents, want those that were learnt", len(got.Items()))
	}
	w.open("")
	if err := w.store.Learn(s.Evidence, s.Endorsements); err != nil {
		t.Fatal(err)
	}
	if w.endorse(s.Evidence); w.service.Requests("pckCRL") == 0 {
		t.Error("the source was not asked for newer documents")
	}
}

// TestFolder reads folders and bundles that somebody carried in.
func TestFolder(t *testing.T) {
	root := t.TempDir()
	at := attesttest.Load(t, tdxSet).At()
	w := newWorld(t, at)
	for _, name := range []string{tdxSet, "sgx/automata-v3-606a-eval17", "snp/msft-turin-v5-vcek", "snp/trustee-vlek"} {
		s := attesttest.Load(t, name)
		w.open("", fetch.Folder{Root: root})
		if _, err := w.store.Endorse(t.Context(), s.Evidence); problem.CodeOf(err) != "ATT-067" {
			t.Errorf("%s: got %v before the folder is there, want ATT-067", name, err)
		}
		need := needOf(t, s)
		if err := fetch.WriteFolder(root, endorse.Set{Need: need, Endorsements: s.Endorsements}); err != nil {
			t.Fatal(err)
		}
		w.open("", fetch.Folder{Root: root})
		if got := w.endorse(s.Evidence); got.Digest() != s.Endorsements.Digest() {
			t.Errorf("%s: got %d documents, want those of the folder", name, len(got.Items()))
		}
		if name != tdxSet {
			continue
		}
		dir := filepath.Join(root, filepath.FromSlash(need.Folder()))
		if err := os.Rename(dir, dir+"-away"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "x.bundle.json"), bundle(t, endorse.Set{Need: need, Endorsements: s.Endorsements}), 0o600); err != nil {
			t.Fatal(err)
		}
		w.open("", fetch.Folder{Root: root})
		if got := w.endorse(s.Evidence); got.Digest() != s.Endorsements.Digest() {
			t.Errorf("%s: got %d documents, want those of the bundle", name, len(got.Items()))
		}
	}
	if err := os.WriteFile(filepath.Join(root, "sgx", "00606a000000", attest.KindRootCRL), make([]byte, endorse.MaxDocument+1), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open("", fetch.Folder{Root: root})
	if _, err := w.store.Endorse(t.Context(), attesttest.Load(t, "sgx/automata-v3-606a-eval17").Evidence); problem.CodeOf(err) != "ATT-065" {
		t.Errorf("a file that is too large: got %v, want ATT-065", err)
	}
}

func needOf(t *testing.T, s attesttest.Set) endorse.Need {
	t.Helper()
	c, _ := hardwareVerifiers[s.Evidence.TEE].Verify(s.Evidence, attest.Endorsements{}, s.At())
	c.TEE = s.Evidence.TEE
	n, ok := endorse.NeedOf(c)
	if !ok {
		t.Fatalf("%s needs nothing", s.Name)
	}
	return n
}

// TestEndings warns before a document ends.
func TestEndings(t *testing.T) {
	s := attesttest.Load(t, tdxSet)
	w := newWorld(t, s.At(), s.Endorsements)
	w.open("", w.pccs(""))
	w.endorse(s.Evidence)
	w.mu.Lock()
	w.now = time.Date(2025, 6, 20, 0, 0, 0, 0, time.UTC)
	w.mu.Unlock()
	if got := w.store.Endings(); len(got) != 0 {
		t.Errorf("a day after the issue: got %+v, want nothing", got)
	}
	w.mu.Lock()
	w.now = time.Date(2025, 7, 19, 10, 5, 0, 0, time.UTC)
	w.mu.Unlock()
	got := w.store.Endings()
	if len(got) != 3 || got[0].Document.Kind != attest.KindPCKCRL || got[0].Key != "tdx/b0c06f000000/platform" {
		t.Errorf("got %+v, want three that end, the CRL first", got)
	}
}

// TestBackground renews what is due without anybody asking.
func TestBackground(t *testing.T) {
	old, recovered := attesttest.Load(t, "sgx/automata-v3-606a-eval17"), attesttest.Load(t, "sgx/automata-v3-606a-eval19")
	w := newWorld(t, old.At(), old.Endorsements)
	w.open("", w.pccs(""))
	w.endorse(old.Evidence)
	w.service.Serve(recovered.Endorsements)
	w.pass(fetch.DefaultRefresh)
	w.store.RenewDue(t.Context())
	for _, d := range w.store.States()[0].Documents {
		if d.Kind == attest.KindTCBInfo && d.Number != 19 {
			t.Errorf("got evaluation number %d, want 19", d.Number)
		}
	}
}
