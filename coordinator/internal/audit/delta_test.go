package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// verdict is like one of a TEE: much that all of its have, a little of its own.
func verdict(t *testing.T, tee string) json.RawMessage {
	t.Helper()
	own := make([]byte, 32)
	if _, err := rand.Read(own); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, `,{"want":"%x","got":"%x"}`, sha256.Sum256(fmt.Append(nil, tee, i)), own)
	}
	return json.RawMessage(`{"steps":[` + b.String()[1:] + `]}`)
}

// TestDifferences stores records whole and as differences, and reads all back as
// they were, also after a restart.
func TestDifferences(t *testing.T) {
	s := storetest.Create(t, storetest.NewDisk().Engine())
	l := New(s, rand.Reader)
	var want []Entry
	add := func(kind Kind, tee string, v json.RawMessage) (size int) {
		t.Helper()
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			e, err := l.Append(tx, Record{Time: time.Unix(1, 0), Kind: kind, Subject: "web", Details: map[string]string{"tee": tee}, Verdict: v})
			want = append(want, e)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		stored, err := records.Read(t.Context(), s, uint64(len(want)-1), 1)
		if err != nil {
			t.Fatal(err)
		}
		return len(stored[0].Data)
	}
	check := func() {
		t.Helper()
		if _, err := l.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := l.Read(t.Context(), 0, 1000)
		if err != nil || len(got) != len(want) {
			t.Fatalf("got %d entries, %v, want %d", len(got), err, len(want))
		}
		for i, e := range got {
			if !bytes.Equal(e.Public, want[i].Public) || !bytes.Equal(e.Private, want[i].Private) || !bytes.Equal(e.Hash, want[i].Hash) {
				t.Errorf("record %d: got %s %s, want %s %s", i, e.Public, e.Private, want[i].Public, want[i].Private)
			}
		}
	}
	keep := func() { l.Committed(want[len(want)-1]) }
	const small = 1000
	for _, step := range []struct {
		kind  Kind
		tee   string
		v     json.RawMessage
		small bool
		then  func()
	}{
		{ActivationRefused, "sgx", verdict(t, "sgx"), false, keep}, // refused: no base
		{ActivationAccepted, "sgx", verdict(t, "sgx"), false, nil}, // not known to be durable: no base
		{ActivationAccepted, "sgx", verdict(t, "sgx"), false, keep},
		{ActivationAccepted, "sgx", verdict(t, "sgx"), true, keep},
		{RenewalRefused, "sgx", verdict(t, "sgx"), true, nil},
		{ActivationAccepted, "tdx", verdict(t, "tdx"), false, keep},
		{RenewalAccepted, "tdx", verdict(t, "tdx"), true, nil},
		{RenewalAccepted, "sgx", verdict(t, "sgx"), true, func() { l = New(s, rand.Reader) }},
		{RenewalAccepted, "sgx", verdict(t, "sgx"), false, keep},
		{RenewalAccepted, "sgx", verdict(t, "sgx"), true, nil},
		{RenewalAccepted, "sgx", verdict(t, "other texts"), false, keep}, // too soon for another base
		{RenewalAccepted, "sgx", verdict(t, "other texts"), false, nil},
		{RenewalAccepted, "", verdict(t, "sgx"), false, nil},
	} {
		size := add(step.kind, step.tee, step.v)
		if (size < small) != step.small {
			t.Errorf("record %d, %s of %s: stored in %d bytes, want it small: %v", len(want)-1, step.kind, step.tee, size, step.small)
		}
		check()
		if step.then != nil {
			step.then()
			check()
		}
	}
}

// TestForms refuses stored bytes that no Append writes.
func TestForms(t *testing.T) {
	s := storetest.Create(t, storetest.NewDisk().Engine())
	l := New(s, rand.Reader)
	var e Entry
	err := s.Update(t.Context(), func(tx *store.Tx) (err error) {
		e, err = l.Append(tx, Record{Time: time.Unix(1, 0), Kind: ActivationAccepted, Details: map[string]string{"tee": "sgx"}, Verdict: verdict(t, "sgx")})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Committed(e)
	good := l.bases.pack("sgx", join(verdict(t, "sgx"), nil))
	if good[0] != formDelta {
		t.Fatalf("got form %d, want a difference", good[0])
	}
	change := func(f func(b []byte) []byte) []byte { return f(slices.Clone(good)) }
	for name, b := range map[string][]byte{
		"nothing":             {},
		"unknown form":        {2, 0},
		"no place":            {formDelta},
		"no length":           {formDelta, 0},
		"on itself":           change(func(b []byte) []byte { b[1] = 7; return b }),
		"on a missing one":    change(func(b []byte) []byte { b[1] = 6; return b }),
		"too long":            {formDelta, 0, 0xff, 0xff, 0xff, 0x7f},
		"cut short":           change(func(b []byte) []byte { return b[:len(b)-9] }),
		"longer than it says": change(func(b []byte) []byte { b[2]--; return b }),
	} {
		if parts, err := l.parts(context.Background(), store.LogRecord{Seq: 7, Data: b}); err == nil {
			t.Errorf("%s: got %d bytes, want an error", name, len(parts))
		}
		if _, err := l.decode(context.Background(), store.LogRecord{Seq: 7, Data: b}); problem.CodeOf(err) != "STO-016" {
			t.Errorf("%s: got %v, want STO-016", name, err)
		}
	}
	if parts, err := l.parts(t.Context(), store.LogRecord{Seq: 7, Data: good}); err != nil || len(parts) == 0 {
		t.Errorf("unchanged: got %d bytes, %v", len(parts), err)
	}
}
