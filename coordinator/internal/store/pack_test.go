package store

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"
)

func TestPack(t *testing.T) {
	noise := make([]byte, 4000)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"nothing": {}, "short": []byte("one decision"), "noise": noise,
		"text": []byte(strings.Repeat(`{"field":"tcb.status","ok":true},`, 200))} {
		t.Run(name, func(t *testing.T) {
			packed := pack(data)
			if len(packed) > len(data)+1 {
				t.Errorf("%d bytes became %d", len(data), len(packed))
			}
			got, err := unpack(packed, len(data))
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes back, %v; want %d", len(got), err, len(data))
			}
		})
	}
	text := []byte(strings.Repeat("decision ", 1000))
	if n := len(pack(text)); n > len(text)/10 {
		t.Errorf("text of %d bytes takes %d", len(text), n)
	}
}

func TestUnpackRefuses(t *testing.T) {
	good := pack([]byte(strings.Repeat("decision ", 1000)))
	cases := map[string][]byte{
		"nothing":       {},
		"unknown form":  {7, 1, 2},
		"no length":     {packedDeflated},
		"truncated":     good[:len(good)-3],
		"longer inside": append([]byte{packedDeflated, 10}, good[3:]...),
		"over limit":    append([]byte{packedDeflated, 0xff, 0xff, 0xff, 0x7f}, good[3:]...),
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			if got, err := unpack(b, 1<<20); err == nil {
				t.Errorf("got %d bytes, want an error", len(got))
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack([]byte("short")))
	f.Add(pack([]byte(strings.Repeat("decision ", 1000))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := unpack(b, 1<<16); err == nil && len(got) > max(1<<16, len(b)) {
			t.Fatalf("%d bytes from %d", len(got), len(b))
		}
	})
}
