package apiv1

import (
	"bytes"
	"encoding/asn1"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/transparency"
)

func facts() LeafFacts {
	f := LeafFacts{TEE: attest.SimSGX, Log: transparency.Promise{Index: 4711, Leaf: [32]byte{4}, Signature: [64]byte{5}}}
	f.Evidence[0], f.Verdict[1], f.Manifest[2] = 1, 2, 3
	return f
}

func TestLeafFactsRoundTrip(t *testing.T) {
	der, err := facts().Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseLeafFacts(der)
	if err != nil || got != facts() {
		t.Errorf("got %+v, %v, want %+v", got, err, facts())
	}
}

func TestLeafFactsRefuses(t *testing.T) {
	long, sig := make([]byte, 32), make([]byte, 64)
	for name, d := range map[string]leafFactsDER{
		"version":        {2, long, long, "sgx", long, 1, long, sig},
		"evidence":       {1, long[:31], long, "sgx", long, 1, long, sig},
		"verdict":        {1, long, long[:31], "sgx", long, 1, long, sig},
		"manifest":       {1, long, long, "sgx", nil, 1, long, sig},
		"no TEE":         {1, long, long, "", long, 1, long, sig},
		"long TEE":       {1, long, long, string(bytes.Repeat([]byte("x"), 33)), long, 1, long, sig},
		"negative index": {1, long, long, "sgx", long, -1, long, sig},
		"great index":    {1, long, long, "sgx", long, 1<<62 + 1, long, sig},
		"leaf hash":      {1, long, long, "sgx", long, 1, long[:31], sig},
		"promise":        {1, long, long, "sgx", long, 1, long, sig[:63]},
	} {
		t.Run(name, func(t *testing.T) {
			der, err := asn1.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			if f, err := ParseLeafFacts(der); err == nil {
				t.Errorf("got %+v, want an error", f)
			}
		})
	}
	der, _ := facts().Encode()
	if _, err := ParseLeafFacts(append(der, 0)); err == nil {
		t.Error("trailing byte: got nil, want an error")
	}
	if _, err := (LeafFacts{}).Encode(); err == nil {
		t.Error("no TEE: got nil, want an error")
	}
}

func FuzzParseLeafFacts(f *testing.F) {
	der, _ := facts().Encode()
	f.Add(der)
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseLeafFacts(b)
		if err != nil {
			return
		}
		again, err := got.Encode()
		if err != nil {
			t.Fatalf("encoding what was parsed: %v", err)
		}
		if back, err := ParseLeafFacts(again); err != nil || back != got {
			t.Fatalf("got %+v, %v, want %+v", back, err, got)
		}
	})
}
