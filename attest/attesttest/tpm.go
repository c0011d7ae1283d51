package attesttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"strconv"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

// TPMQuote is a quote as a TPM would sign it, by a key in memory: RSA (RSASSA)
// or ECDSA, with SHA-256.
func TPMQuote(t testing.TB, key crypto.Signer, qualifying []byte, pcrs map[string]attest.Hex) tpm.Quote {
	t.Helper()
	be := binary.BigEndian
	sized := func(b, content []byte) []byte { return append(be.AppendUint16(b, uint16(len(content))), content...) }
	a := be.AppendUint16(be.AppendUint32(nil, 0xff544347), 0x8018)
	a = sized(a, append([]byte{0, 0xb}, make([]byte, 32)...)) // signer
	a = sized(a, qualifying)
	a = append(a, make([]byte, 8+4+4)...)                 // clock, resets, restarts
	a = append(a, 1, 0x20, 0x20, 3, 0x12, 0, 0x12, 0, 3)  // safe, firmware
	a = append(be.AppendUint32(a, 1), 0, 0xb, 3, 0, 0, 0) // one bank, SHA-256
	selected, digest := a[len(a)-3:], sha256.New()
	for n := range 24 {
		if v, ok := pcrs[strconv.Itoa(n)]; ok {
			selected[n/8] |= 1 << (n % 8)
			digest.Write(v)
		}
	}
	a = sized(a, digest.Sum(nil))
	sum := sha256.Sum256(a)
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	q := tpm.Quote{Attested: a, PCRs: pcrs}
	switch key.Public().(type) {
	case *rsa.PublicKey:
		q.Signature = sized([]byte{0, 0x14, 0, 0xb}, sig)
	case *ecdsa.PublicKey:
		var point struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(sig, &point); err != nil {
			t.Fatal(err)
		}
		q.Signature = sized(sized([]byte{0, 0x18, 0, 0xb}, point.R.Bytes()), point.S.Bytes())
	}
	return q
}

// TPMPublic is the TPMT_PUBLIC of a restricted signing key, RSA or ECDSA P-256.
func TPMPublic(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	be := binary.BigEndian
	sized := func(b, content []byte) []byte { return append(be.AppendUint16(b, uint16(len(content))), content...) }
	const attributes = 1<<1 | 1<<4 | 1<<5 | 1<<6 | 1<<16 | 1<<18
	head := func(kind byte) []byte {
		return append(be.AppendUint32([]byte{0, kind, 0, 0xb}, attributes), 0, 0, 0, 0x10) // no policy, no symmetric algorithm
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		b := append(head(0x01), 0, 0x14, 0, 0xb)
		b = be.AppendUint32(be.AppendUint16(b, uint16(k.N.BitLen())), 0)
		return sized(b, k.N.Bytes())
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil || len(point) != 65 {
			t.Fatalf("not a P-256 key: %v", err)
		}
		b := append(head(0x23), 0, 0x18, 0, 0xb, 0, 3, 0, 0x10)
		return sized(sized(b, point[1:33]), point[33:])
	}
	t.Fatalf("a key of type %T", key)
	return nil
}
