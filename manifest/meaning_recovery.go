package manifest

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// recovery checks who holds shares, and that they are enough.
func (c *checker) recovery() {
	n := c.root.Get("recovery")
	if n == nil || c.bad[n] {
		if seal := c.root.Get("seal"); c.m.Seal == SealNone && c.root.Get("recovery") == nil {
			c.report((*path)(nil).member("seal"), spanOf(seal), finding{code: "MAN-081", warning: true, message: "no platform seals the state and nobody holds shares of its key: without an external KMS a restart loses it", suggest: `add "recovery"`})
		}
		return
	}
	p := (*path)(nil).member("recovery")
	keys := n.Get("keys")
	if keys == nil || c.bad[keys] {
		return
	}
	holders := make(map[string]string)
	for i := range keys.Members {
		m := &keys.Members[i]
		if c.bad[m.Value] {
			continue
		}
		at := p.member("keys").member(m.Key)
		if _, known := c.m.Users[m.Key]; !known {
			c.report(at, keySpan(m), finding{code: "MAN-067", message: fmt.Sprintf("recovery names %q, who is no user", m.Key), suggest: c.didYouMean(m.Key, c.userNames)})
		}
		key, err := recoveryKey(m.Value.Text)
		if err != nil {
			c.report(at, spanOf(m.Value), finding{code: "MAN-068", message: fmt.Sprintf("recovery key of %s: %v", m.Key, err)})
			continue
		}
		if other, taken := holders[key]; taken {
			c.report(at, spanOf(m.Value), finding{code: "MAN-076", message: fmt.Sprintf("%s and %s have the same recovery key, so one person would have two shares", other, m.Key)})
		}
		holders[key] = m.Key
	}
	if r := c.m.Recovery; r != nil && r.Threshold > len(keys.Members) {
		c.report(p.member("threshold"), spanOf(n.Get("threshold")), finding{code: "MAN-069", message: fmt.Sprintf("%s would have to come together, but %s", plural(r.Threshold, "share"), existing(len(keys.Members)))})
	}
}

func existing(n int) string {
	if n == 1 {
		return "there is one holder"
	}
	return fmt.Sprintf("there are %d holders", n)
}

// recoveryKey reads a holder's public key, and returns what tells it from others:
// an RSA key of 2048 to 4096 bits in PEM (PKIX), or an age recipient for X25519
// (C2SP age).
func recoveryKey(text string) (string, error) {
	if strings.HasPrefix(text, "age1") {
		key, err := ageRecipient(text)
		return "age " + string(key), err
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return "", fmt.Errorf("it is neither PEM nor an age recipient (age1…)")
	case block.Type != "PUBLIC KEY":
		return "", fmt.Errorf("it is a PEM block of type %q, not PUBLIC KEY", clip(block.Type))
	case len(bytes.TrimSpace(rest)) > 0 || !strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN"):
		return "", fmt.Errorf("something stands beside the key")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("it is no PKIX public key")
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok {
		return "", fmt.Errorf("its key is not RSA")
	}
	if bits := public.N.BitLen(); bits < 2048 || bits > 4096 {
		return "", fmt.Errorf("its RSA key has %d bits, but 2048 to 4096 are allowed", bits)
	}
	return "rsa " + public.N.String(), nil
}

const bech32Letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

// ageRecipient reads an X25519 recipient: Bech32 (BIP 173) with the prefix "age"
// over 32 bytes. Whether the point is a good one is for who encrypts to it.
func ageRecipient(text string) ([]byte, error) {
	const size, sums = 32, 6
	data, _ := strings.CutPrefix(text, "age1")
	if len(data) != (size*8+4)/5+sums {
		return nil, fmt.Errorf("an age recipient for X25519 has 62 characters, this one has %d", len(text))
	}
	sum := uint32(1)
	step := func(v byte) {
		top := sum >> 25
		sum = sum&0x1ffffff<<5 ^ uint32(v)
		for i, g := range []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				sum ^= g
			}
		}
	}
	for _, v := range []byte{'a' >> 5, 'g' >> 5, 'e' >> 5, 0, 'a' & 31, 'g' & 31, 'e' & 31} {
		step(v)
	}
	var key []byte
	bits, width := uint32(0), 0
	for i := range len(data) {
		v := strings.IndexByte(bech32Letters, data[i])
		if v < 0 {
			return nil, fmt.Errorf("an age recipient holds no %q", data[i])
		}
		step(byte(v))
		if i >= len(data)-sums {
			continue
		}
		bits, width = bits<<5|uint32(v), width+5
		if width >= 8 {
			width -= 8
			key = append(key, byte(bits>>width))
		}
	}
	if sum != 1 {
		return nil, fmt.Errorf("the age recipient is mistyped: its checksum is wrong")
	}
	if bits&(1<<width-1) != 0 {
		return nil, fmt.Errorf("the age recipient does not end with zero bits")
	}
	return key, nil
}

// witnesses checks the keys of who co-signs the log.
func (c *checker) witnesses() {
	keys := make(map[string]string)
	c.section("witnesses", func(m *jsonpos.Member, p *path) {
		n := m.Value.Get("key")
		if n == nil || c.bad[n] {
			return
		}
		key, err := witnessKey(n.Text)
		if err != nil {
			c.report(p.member("key"), spanOf(n), finding{code: "MAN-077", message: fmt.Sprintf("key of witness %s: %v", m.Key, err)})
			return
		}
		if other, taken := keys[key]; taken {
			c.report(p.member("key"), spanOf(n), finding{code: "MAN-078", message: fmt.Sprintf("witnesses %s and %s have the same key, which would count twice", other, m.Key)})
		}
		keys[key] = m.Key
	})
}

// witnessKey reads a verifier key of co-signatures (C2SP tlog-cosignature):
// NAME+ID+BASE64 of signature type 4 and 32 bytes of Ed25519, where ID is the
// first four bytes of SHA-256 of name, line feed and that.
func witnessKey(text string) (string, error) {
	name, rest, _ := strings.Cut(text, "+")
	id, encoded, ok := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	switch {
	case !ok || err != nil || strings.ContainsAny(encoded, "\r\n"):
		return "", fmt.Errorf("want NAME+ID+BASE64")
	case name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return "", fmt.Errorf("its name is empty or has spaces")
	case len(raw) != 33 || raw[0] != 4:
		return "", fmt.Errorf("want signature type 4 and 32 bytes: Ed25519 co-signatures")
	}
	if sum := sha256.Sum256(append([]byte(name+"\n"), raw...)); hex.EncodeToString(sum[:4]) != id {
		return "", fmt.Errorf("its ID is %s, but the key has %s: one of them is mistyped", clip(id), hex.EncodeToString(sum[:4]))
	}
	return string(raw), nil
}
