package replica

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
)

// fixedVoucher is of the data key 00 01 … 1f, at a moment that a test moves.
func fixedVoucher(t testing.TB, now *time.Time) *Voucher {
	t.Helper()
	var raw [seal.KeySize]byte
	for i := range raw {
		raw[i] = byte(i)
	}
	data, err := seal.NewKey(raw[:])
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVoucher(data, func() time.Time { return *now }, bytes.NewReader(bytes.Repeat([]byte{0xaa}, 16)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestHeaderVector makes the header of docs/wire.md: replicas of two releases share
// a state during an upgrade.
func TestHeaderVector(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```vector replica-header\n.*?header:\n(.*?)```").FindSubmatch(doc)
	if block == nil {
		t.Fatal("docs/wire.md has no vector replica-header")
	}
	now := time.UnixMilli(1_790_000_000_123)
	h, err := fixedVoucher(t, &now).header(netip.MustParseAddrPort("192.0.2.1:443"))
	if want := strings.Join(strings.Fields(string(block[1])), ""); err != nil || hex.EncodeToString(h) != want {
		t.Errorf("got  %x, %v\nwant %s", h, err, want)
	}
}

func TestHeaders(t *testing.T) {
	for _, addr := range []string{"192.0.2.1:443", "[2001:db8::1]:65535", "0.0.0.0:0", "[::ffff:192.0.2.7]:9"} {
		v := newVoucher(t)
		caller := netip.MustParseAddrPort(addr)
		h, err := v.header(caller)
		if err != nil || len(h) != headerSize {
			t.Fatalf("got %d bytes, %v; want %d", len(h), err, headerSize)
		}
		got, err := v.open(h)
		if want := netip.AddrPortFrom(caller.Addr().Unmap(), caller.Port()); err != nil || got != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
		if _, err := v.open(h); err == nil {
			t.Errorf("%s: got accepted twice, want once", addr)
		}
	}
	var none *Voucher
	if h, err := none.header(netip.MustParseAddrPort("192.0.2.1:443")); h != nil || err != nil {
		t.Errorf("got %x, %v of no voucher, want nothing", h, err)
	}
	if _, err := none.open(make([]byte, headerSize)); err == nil {
		t.Error("got accepted without a voucher, want refused")
	}
	if _, err := NewVoucher(seal.Key{}, time.Now, rand.Reader); err == nil {
		t.Error("got a voucher of no key, want an error")
	}
}

// Every bit of a header counts, and its length.
func TestAlteredHeaders(t *testing.T) {
	v := newVoucher(t)
	h, err := v.header(netip.MustParseAddrPort("192.0.2.1:443"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range h {
		for bit := range 8 {
			altered := bytes.Clone(h)
			altered[i] ^= 1 << bit
			if got, err := v.open(altered); err == nil {
				t.Errorf("byte %d, bit %d: got %s, want refused", i, bit, got)
			}
		}
	}
	for _, wrong := range [][]byte{nil, h[:headerSize-1], append(bytes.Clone(h), 0)} {
		if _, err := v.open(wrong); err == nil {
			t.Errorf("got accepted with %d bytes, want refused", len(wrong))
		}
	}
	if _, err := v.open(h); err != nil {
		t.Errorf("got %v after the altered ones, want accepted", err)
	}
}

// What is signed and still wrong is refused, too.
func TestSignedHeadersThatAreWrong(t *testing.T) {
	v := newVoucher(t)
	for name, alter := range map[string]func(h []byte){
		"another magic":    func(h []byte) { h[1] = 'A' },
		"another version":  func(h []byte) { h[atVersion] = 2 },
		"another family":   func(h []byte) { h[atFamily] = 6 },
		"no family":        func(h []byte) { h[atFamily] = 0 },
		"family of IPv6":   func(h []byte) { h[atAddress] = 0x20 },
		"the end of times": func(h []byte) { copy(h[atTime:], bytes.Repeat([]byte{0xff}, 8)) },
		"the beginning":    func(h []byte) { copy(h[atTime:], make([]byte, 8)) },
	} {
		h, err := v.header(netip.MustParseAddrPort("192.0.2.1:443"))
		if err != nil {
			t.Fatal(err)
		}
		alter(h)
		if got, err := v.open(append(h[:atMAC], v.mac(h)...)); err == nil {
			t.Errorf("%s: got %s, want refused", name, got)
		}
	}
}

func TestHeadersInTime(t *testing.T) {
	for off, want := range map[time.Duration]bool{0: true, headerSkew: true, -headerSkew: true, headerSkew + time.Second: false, -headerSkew - time.Second: false} {
		now := time.Unix(1_790_000_000, 0)
		v := fixedVoucher(t, &now)
		h, err := v.header(netip.MustParseAddrPort("192.0.2.1:443"))
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(off)
		if _, err := v.open(h); (err == nil) != want {
			t.Errorf("%s later: got %v, want accepted: %t", off, err, want)
		}
	}
}

// Headers are remembered for as long as they would be accepted, and no longer.
func TestHeadersAreRemembered(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	v := fixedVoucher(t, &now)
	early := now.Add(headerSkew) // of a replica whose clock is ahead
	for i := range maxVouchers {
		if err := v.once([16]byte{byte(i), byte(i >> 8), byte(i >> 16)}, early.Add(headerSkew), now); err != nil {
			t.Fatal(err)
		}
	}
	other := [16]byte{15: 1}
	if err := v.once(other, early.Add(headerSkew), now); err == nil {
		t.Error("got more remembered than there is room for")
	}
	now = now.Add(2 * headerSkew)
	if err := v.once([16]byte{}, now, now); err == nil {
		t.Error("got accepted again within its time")
	}
	now = now.Add(time.Second)
	if err := v.once(other, now.Add(headerSkew), now); err != nil {
		t.Errorf("got %v after the time of all others", err)
	}
	if len(v.seen) != 1 {
		t.Errorf("got %d remembered, want 1", len(v.seen))
	}
}

func TestVoucherPrintsNoKey(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	v := fixedVoucher(t, &now)
	secret := hex.EncodeToString(v.key.Reveal())
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s"} {
		if text := fmt.Sprintf(verb, v); strings.Contains(text, secret) || strings.Contains(text, string(v.key.Reveal())) {
			t.Errorf("%s prints the key", verb)
		}
	}
}

func FuzzHeader(f *testing.F) {
	now := time.Unix(1_790_000_000, 0)
	v := fixedVoucher(f, &now)
	h, err := v.header(netip.MustParseAddrPort("192.0.2.1:443"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(h, false)
	f.Add(h[:headerSize-1], true)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		genuine := bytes.Equal(b, h)
		if sign && len(b) == headerSize {
			b = append(bytes.Clone(b[:atMAC]), v.mac(b)...)
		}
		clear(v.seen)
		got, err := v.open(b)
		if err != nil {
			return
		}
		if !sign && !genuine {
			t.Fatalf("got %s of a header that nobody signed", got)
		}
		if !got.IsValid() || got.Addr().Is4In6() {
			t.Fatalf("got the address %s", got)
		}
		if _, err := v.open(b); err == nil {
			t.Fatal("got accepted twice")
		}
	})
}
