package attest

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

func TestTEE(t *testing.T) {
	for _, c := range []struct {
		tee, shape TEE
		simulated  bool
	}{{SGX, SGX, false}, {TDX, TDX, false}, {SNP, SNP, false}, {SimSGX, SGX, true}, {SimTDX, TDX, true}} {
		if c.tee.Shape() != c.shape || c.tee.Simulated() != c.simulated {
			t.Errorf("%s: got %q, %t, want %q, %t", c.tee, c.tee.Shape(), c.tee.Simulated(), c.shape, c.simulated)
		}
	}
}

func TestEvidenceDigest(t *testing.T) {
	a := Evidence{TEE: "sgx", Raw: []byte("x")}.Digest()
	for _, other := range []Evidence{{TEE: "sgx", Raw: []byte("y")}, {TEE: "tdx", Raw: []byte("x")}, {TEE: "sg", Raw: []byte("\x00x")}, {TEE: "sgx"}} {
		if other.Digest() == a {
			t.Errorf("%+v has the digest of another", other)
		}
	}
}

func TestEndorsements(t *testing.T) {
	a, b := Endorsement{"a", []byte("1"), []byte("c")}, Endorsement{"b", []byte("2"), nil}
	set := NewEndorsements(b, a)
	if set.Digest() != NewEndorsements(a, b).Digest() {
		t.Error("the order of documents changes the digest")
	}
	for name, other := range map[string]Endorsements{
		"less": NewEndorsements(a), "body": NewEndorsements(a, Endorsement{"b", []byte("3"), nil}), "chain": NewEndorsements(Endorsement{"a", []byte("1"), nil}, b),
		"moved boundary": NewEndorsements(Endorsement{"a", []byte("1c"), nil}, b), "later of one kind": NewEndorsements(a, b, Endorsement{"b", []byte("3"), nil}),
	} {
		if other.Digest() == set.Digest() {
			t.Errorf("%s: got the same digest", name)
		}
	}
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	var back Endorsements
	if err := json.Unmarshal(data, &back); err != nil || back.Digest() != set.Digest() || !reflect.DeepEqual(back.Items(), set.Items()) {
		t.Errorf("got %+v, %v back, want %+v", back, err, set)
	}
	a.Body[0] = '9'
	if item, ok := set.Get("a"); !ok || string(item.Body) != "1" {
		t.Errorf("got %q, %t: the set shares bytes with its maker", item.Body, ok)
	}
	if _, ok := set.Get("c"); ok {
		t.Error("a document that is not there was found")
	}
}

func TestHexAndDuration(t *testing.T) {
	var v struct {
		H Hex
		D Duration
	}
	if err := json.Unmarshal([]byte(`{"H":"0AfF","D":"1h30m"}`), &v); err != nil {
		t.Fatal(err)
	}
	if v.H.String() != "0aff" || time.Duration(v.D) != 90*time.Minute {
		t.Errorf("got %v, %v", v.H, v.D)
	}
	if b, _ := json.Marshal(v); string(b) != `{"H":"0aff","D":"1h30m0s"}` {
		t.Errorf("got %s", b)
	}
	for _, bad := range []string{`{"H":"0"}`, `{"H":"zz"}`, `{"D":"1 day"}`, `{"D":3}`} {
		if json.Unmarshal([]byte(bad), &v) == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestValidUntil(t *testing.T) {
	early, late := now, now.Add(time.Hour)
	for _, c := range []struct {
		t    TCBClaims
		want time.Time
	}{{TCBClaims{NextUpdate: early, NotAfter: late}, early}, {TCBClaims{NextUpdate: late, NotAfter: early}, early}, {TCBClaims{NotAfter: early}, early}, {TCBClaims{NextUpdate: early}, early}, {TCBClaims{}, time.Time{}}} {
		if got := c.t.ValidUntil(); !got.Equal(c.want) {
			t.Errorf("%+v: got %v, want %v", c.t, got, c.want)
		}
	}
}
