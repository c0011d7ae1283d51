//go:build ego && cgo

package issuer

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/edgelesssys/ego/enclave"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Outside an enclave EGo hands out keys of zeros without an error; ours refuse.
func TestEGoOutsideAnEnclave(t *testing.T) {
	if key, _, err := enclave.GetRandomProductSealKey(); err != nil || !bytes.Equal(key, make([]byte, 16)) {
		t.Errorf("EGo itself: got %d bytes, %v, want zeros: is this an enclave?", len(key), err)
	}
	if i, err := probeEGo(t.Context(), Machine{}); problem.CodeOf(err) != "ATT-096" || i != nil {
		t.Errorf("probe: got %v, %v, want ATT-096", i, err)
	}
	_, err := Open(t.Context(), Host(), attest.SGX)
	if problem.CodeOf(err) != "ATT-095" || !strings.Contains(err.Error(), "OE_UNSUPPORTED") {
		t.Errorf("open: got %v, want ATT-095 with OE_UNSUPPORTED", err)
	}
	e := &ego{gate: newGate()}
	if _, err := e.Issue(t.Context(), attest.Binding{}); problem.CodeOf(err) != "ATT-096" {
		t.Errorf("issue: got %v, want ATT-096", err)
	}
	request := newSGXKeyRequest(SealUnique, make([]byte, 384))
	for _, policy := range []SealPolicy{SealProduct, SealUnique} {
		for _, info := range [][]byte{nil, request[:]} {
			if key, _, err := e.SealKey(t.Context(), policy, info); problem.CodeOf(err) != "ATT-096" || key != nil {
				t.Errorf("%s: got a key of %d bytes, %v, want ATT-096", policy, len(key), err)
			}
		}
		// The second line of defence, without the report.
		k, err := egoKey(policy, nil)
		if err == nil {
			err = checkKey("EGo", k.key, sgxKeySize)
		}
		if err == nil {
			t.Errorf("%s: a key of zeros was accepted", policy)
		}
	}
	if _, _, err := e.SealKey(t.Context(), "other", nil); problem.CodeOf(err) != "ATT-098" {
		t.Errorf("policy: got %v, want ATT-098", err)
	}
}

// What EGo writes is what is accepted when the state is opened.
func TestEGoKeyRequests(t *testing.T) {
	for policy, make := range map[SealPolicy]func() ([]byte, []byte, error){
		SealProduct: enclave.GetRandomProductSealKey, SealUnique: enclave.GetRandomUniqueSealKey,
	} {
		_, info, err := make()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseSGXKeyRequest(policy, info); err != nil {
			t.Errorf("%s: %v", policy, err)
		}
	}
}

func TestStripOpenEnclave(t *testing.T) {
	le := binary.LittleEndian
	report := func(version, kind uint32, size uint64) []byte {
		return append(le.AppendUint64(le.AppendUint32(le.AppendUint32(nil, version), kind), size), "quote"...)
	}
	for name, c := range map[string]struct {
		in   []byte
		want string
	}{
		"good": {report(1, 2, 5), "quote"}, "trailing": {report(1, 2, 4), "quot"}, "version": {report(2, 2, 5), ""},
		"local": {report(1, 1, 5), ""}, "beyond": {report(1, 2, 6), ""}, "wraps": {report(1, 2, 1<<63), ""},
		"header only": {report(1, 2, 0)[:16], ""}, "empty": {nil, ""},
	} {
		got, err := stripOpenEnclave(c.in)
		if string(got) != c.want || c.want == "" && problem.CodeOf(err) != "ATT-097" {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, c.want)
		}
	}
}
