package canonical

import (
	"errors"
	"testing"
)

func TestUnmarshal(t *testing.T) {
	for raw, ok := range map[string]bool{
		`{"a":1,"b":"AQ=="}`:          true,
		`{"a":1}`:                     false, // b is missing
		`{"a":1,"b":"AQ==","c":1}`:    false,
		`{"a":2,"a":1,"b":"AQ=="}`:    false,
		`{"A":1,"b":"AQ=="}`:          false,
		`{"a":1,"b":"AQ=="} `:         false,
		`{"a":1,"b":"AQ=="}{}`:        false,
		`{"a":1,"b":"AR=="}`:          false, // bits that base64 drops
		`{"a":1,"b":"A\nQ=="}`:        false,
		`{"a":1.0,"b":"AQ=="}`:        false,
		`{"b":"AQ==","a":1}`:          false,
		`{"a":null,"b":"AQ=="}`:       false,
		"{\"a\":1,\"b\":\"AQ==\"\xff": false,
	} {
		var v struct {
			A int    `json:"a"`
			B []byte `json:"b"`
		}
		if err := Unmarshal([]byte(raw), &v); (err == nil) != ok {
			t.Errorf("%s: got %v, want accepted=%t", raw, err, ok)
		}
	}
	if err := Unmarshal([]byte(` 1`), new(int)); !errors.Is(err, ErrForm) {
		t.Errorf("got %v, want ErrForm", err)
	}
}
