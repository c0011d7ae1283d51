package etcd

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestClusterHostile changes what etcd holds, as its host could: reading is a coded
// error, and so is committing on what is pending.
func TestClusterHostile(t *testing.T) {
	server := etcdtest.Start(t, 1, "--unsafe-no-fsync")
	size := func(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{pieces}, n) }
	id := bytes.Repeat([]byte{7}, idSize)
	pending := func(n int) []byte { return pendingCommit{id, n}.encode() }
	stage := func(b ...byte) map[string][]byte {
		return map[string][]byte{pendingName: pending(len(b)), stageStart + strings.Repeat("07", idSize) + "/0000": b}
	}
	for name, c := range map[string]struct {
		keys   map[string][]byte
		want   problem.Code
		commit bool // also a commit is refused
	}{
		"good":                      {map[string][]byte{entryStart + "rx": {inline, 1}}, "", false},
		"an empty entry":            {map[string][]byte{entryStart + "rx": {}}, "STO-005", false},
		"an unknown kind":           {map[string][]byte{entryStart + "rx": {9, 9}}, "STO-005", false},
		"a long entry":              {map[string][]byte{entryStart + "rx": make([]byte, maxInline+2)}, "STO-005", false},
		"a short size":              {map[string][]byte{entryStart + "rx": {pieces, 1, 2}}, "STO-005", false},
		"a size of one entry":       {map[string][]byte{entryStart + "rx": size(maxInline)}, "STO-005", false},
		"a huge size":               {map[string][]byte{entryStart + "rx": size(1<<32 - 1)}, "STO-005", false},
		"no pieces":                 {map[string][]byte{entryStart + "rx": size(pieceSize + 1)}, "STO-006", false},
		"a piece of another size":   {map[string][]byte{entryStart + "rx": size(pieceSize + 1), pieceStart + "\x02rx\x00\x00": {1}}, "STO-006", false},
		"the second piece alone":    {map[string][]byte{entryStart + "rx": size(pieceSize + 1), pieceStart + "\x02rx\x00\x01": {1}}, "STO-006", false},
		"a long key":                {map[string][]byte{entryStart + "r" + strings.Repeat("x", maxKey): {inline}}, "STO-006", false},
		"an empty key":              {map[string][]byte{entryStart: {inline}}, "STO-006", false},
		"pending of nothing":        {map[string][]byte{pendingName: {}}, "STO-005", true},
		"pending of no size":        {map[string][]byte{pendingName: pending(0)}, "STO-005", true},
		"pending of a huge size":    {map[string][]byte{pendingName: pending(maxStage + 1)}, "STO-005", true},
		"no stage":                  {map[string][]byte{pendingName: pending(10)}, "STO-006", true},
		"a stage of another length": {map[string][]byte{pendingName: pending(10), stageStart + strings.Repeat("07", idSize) + "/0000": {1}}, "STO-006", true},
		"an unknown change":         {stage(3, 1, 'r'), "STO-005", true},
		"a change without a key":    {stage(deletion, 0), "STO-005", true},
		"a change with a long key":  {stage(append([]byte{deletion, maxKey + 1}, make([]byte, maxKey+1)...)...), "STO-005", true},
		"a change cut short":        {stage(putting, 1, 'r', 0, 0), "STO-005", true},
		"a value cut short":         {stage(putting, 1, 'r', 0, 0, 0, 2, 1), "STO-005", true},
		"changes out of order":      {stage(deletion, 1, 's', deletion, 1, 'r'), "STO-005", true},
		"a change twice":            {stage(deletion, 1, 'r', deletion, 1, 'r'), "STO-005", true},
	} {
		t.Run(name, func(t *testing.T) {
			cl := dial(t, server)
			if _, err := cl.Engine().Commit(t.Context(), 0, []store.Entry{{Key: "h", Value: []byte("head")}}, nil); err != nil {
				t.Fatal(err)
			}
			// With the revision, as a commit writes them.
			ops := []clientv3.Op{clientv3.OpPut(cl.Key(revName), "host")}
			for key, value := range c.keys {
				ops = append(ops, clientv3.OpPut(cl.Key(key), string(value)))
			}
			resp, err := cl.client.Txn(t.Context()).Then(ops...).Commit()
			if err != nil {
				t.Fatal(err)
			}
			rev := store.Rev(resp.Header.Revision)
			if _, err := cl.Engine().Load(t.Context(), func(store.Entry) error { return nil }); problem.CodeOf(err) != c.want || err != nil && c.want == "" {
				t.Errorf("loading: got %v, want %q", err, c.want)
			}
			if _, err := cl.Engine().Range(t.Context(), "", "z", 100); problem.CodeOf(err) != c.want || err != nil && c.want == "" {
				t.Errorf("reading: got %v, want %q", err, c.want)
			}
			_, err = cl.Engine().Commit(t.Context(), rev, []store.Entry{{Key: "h", Value: []byte("next")}}, nil)
			if c.commit != (err != nil) || c.commit && problem.CodeOf(err) != c.want {
				t.Errorf("committing: got %v, want %q: %v", err, c.want, c.commit)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encodeStage([]change{{key: "a"}, {key: "b", value: []byte("x")}, {key: "c", value: []byte{}}}))
	f.Add(pendingCommit{make([]byte, idSize), 7}.encode())
	f.Add(encodeValue([]byte("x")))
	f.Add(encodeValue(make([]byte, maxInline+1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if all, err := decodeStage(b); err == nil && !bytes.Equal(encodeStage(all), b) {
			t.Errorf("%q as a stage is %v", b, all)
		}
		if p, err := decodePending(b); err == nil && (!bytes.Equal(p.encode(), b) || p.size < 1 || p.size > maxStage) {
			t.Errorf("%q as pending is %v", b, p)
		}
		switch value, size, err := decodeValue(b); {
		case err != nil:
		case size == 0 && !slices.Equal(encodeValue(value), b):
			t.Errorf("%q as a value is %q", b, value)
		case size != 0 && !slices.Equal(encodeValue(make([]byte, size)), b):
			t.Errorf("%q as a value has size %d", b, size)
		}
	})
}
