package api

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// standard reads the log with the Go project's own packages and what the C2SP
// specifications say, and with nothing of this project.
type standard struct {
	t    *testing.T
	http *http.Client
	url  string
}

func (s standard) get(path string) (body []byte, h http.Header) {
	s.t.Helper()
	resp, err := s.http.Get(s.url + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: got status %d, %v: %s", path, resp.StatusCode, err, body)
	}
	return body, resp.Header
}

// tilePath is <L>/<N>[.p/<W>] as c2sp.org/tlog-tiles describes it.
func tilePath(level string, n int64, width int) string {
	p := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		p = fmt.Sprintf("x%03d/%s", n%1000, p)
	}
	if width < 256 {
		p += fmt.Sprintf(".p/%d", width)
	}
	return "/tile/" + level + "/" + p
}

func (s standard) Height() int                     { return 8 }
func (s standard) SaveTiles([]tlog.Tile, [][]byte) {}
func (s standard) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		body, h := s.get(tilePath(strconv.Itoa(t.L), t.N, t.W))
		if h.Get("Content-Type") != "application/octet-stream" || !strings.Contains(h.Get("Cache-Control"), "immutable") {
			s.t.Errorf("tile %v: got headers %v", t, h)
		}
		data[i] = body
	}
	return data, nil
}

// tree reads and verifies the checkpoint.
func (s standard) tree() tlog.Tree {
	s.t.Helper()
	key, _ := s.get("/key")
	verifier, err := note.NewVerifier(strings.TrimSuffix(string(key), "\n"))
	if err != nil {
		s.t.Fatal(err)
	}
	signed, h := s.get("/checkpoint")
	if h.Get("Content-Type") != "text/plain; charset=utf-8" || h.Get("Cache-Control") != "no-store" {
		s.t.Errorf("checkpoint: got headers %v", h)
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		s.t.Fatal(err)
	}
	lines := strings.Split(n.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || lines[0] != verifier.Name() {
		s.t.Fatalf("checkpoint %q: %v", n.Text, err)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil {
		s.t.Fatal(err)
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}
}

// entries reads all entries.
func (s standard) entries(size int64) (all [][]byte) {
	s.t.Helper()
	for n := int64(0); n < size; n += 256 {
		bundle, _ := s.get(tilePath("entries", n/256, int(min(256, size-n))))
		for len(bundle) > 0 {
			end := 2 + binary.BigEndian.Uint16(bundle)
			all = append(all, bundle[2:end])
			bundle = bundle[end:]
		}
	}
	return all
}

// TestStandardToolsReadTheLog verifies every record of a log of more than one
// tile with tools that know nothing of this project.
func TestStandardToolsReadTheLog(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.set(t, "1h")
	tool := standard{t, browse(t, true, nil), "https://" + s.client + "/v1/log"}
	before := tool.tree()
	m := s.newMarble(t, "7f2c19ab-0000-4000-8000-000000000001")
	resp, err := m.activate(t)
	if err != nil {
		t.Fatal(err)
	}
	for range 270 {
		if err := s.core.RecordImport(t.Context(), &coordinator.Principal{Name: "alice"}, [32]byte{}, 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	now := tool.tree()
	hashes := tlog.TileHashReader(now, tool)
	consistent, err := tlog.ProveTree(now.N, before.N, hashes)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.CheckTree(consistent, now.N, now.Hash, before.N, before.Hash); err != nil {
		t.Error(err)
	}
	accepted := 0
	for n, entry := range tool.entries(now.N) {
		proof, err := tlog.ProveRecord(now.N, int64(n), hashes)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(proof, now.N, now.Hash, int64(n), tlog.RecordHash(entry)); err != nil {
			t.Errorf("record %d: %v", n, err)
		}
		var e struct{ Kind, Decision string }
		if err := json.Unmarshal(entry, &e); err != nil {
			t.Fatal(err)
		}
		if e.Decision == resp.GetDecision() {
			accepted++
		}
	}
	if accepted != 1 {
		t.Errorf("%d entries have the decision %s, want 1", accepted, resp.GetDecision())
	}
	at := transparency.Checkpoint{Size: uint64(now.N), Root: now.Hash}
	body, _ := tool.get(fmt.Sprintf("/proof?index=2&size=%d", now.N))
	var p apiv1.Acceptance
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatal(err)
	}
	if err := transparency.VerifyInclusion(2, transparency.LeafHash(p.Entry), p.Proof, at); err != nil {
		t.Error(err)
	}
	body, _ = tool.get(fmt.Sprintf("/consistency?older=%d&size=%d", before.N, now.N))
	var c apiv1.Consistency
	if err := json.Unmarshal(body, &c); err != nil {
		t.Fatal(err)
	}
	if err := transparency.VerifyConsistency(transparency.Checkpoint{Size: uint64(before.N), Root: before.Hash}, at, c.Proof); err != nil {
		t.Error(err)
	}
}

func TestLogRefuses(t *testing.T) {
	s := newStack(t, stackConfig{})
	h := browse(t, true, nil)
	for path, want := range map[string]string{
		"tile/0/000":                       "LOG-007", // not full yet
		"tile/0/000.p/200":                 "LOG-007",
		"tile/0/000.p/0":                   "LOG-007",
		"tile/0/0":                         "LOG-007",
		"tile/00/000.p/1":                  "LOG-007",
		"tile/8/000.p/1":                   "LOG-007",
		"tile/data/000.p/1":                "LOG-007",
		"tile/entries/000":                 "LOG-007",
		"tile/entries/001.p/1":             "LOG-007",
		"tile/0/x999/x999/x999/x999/999":   "LOG-007",
		"tile/0/x999/x999/x999/x999/999/1": "LOG-007",
		"tile/0/000.p/1?x=1":               "CRD-110",
		"checkpoint?witnessed=true":        "LOG-015",
		"checkpoint?witnessed=perhaps":     "CRD-110",
		"proof?index=0":                    "CRD-110",
		"proof?index=1&size=1":             "LOG-010",
		"proof?index=0&size=9999":          "LOG-010",
		"proof?index=x&size=1":             "CRD-110",
		"consistency?older=2&size=1":       "LOG-010",
		"consistency?size=1":               "CRD-110",
	} {
		resp, err := h.Get("https://" + s.client + "/v1/log/" + path)
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Code string }
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if err != nil || got.Code != want || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: got %d %s, %v, want %s", path, resp.StatusCode, got.Code, err, want)
		}
	}
}
