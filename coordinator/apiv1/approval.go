package apiv1

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ApprovalText is what a user signs to approve a proposal: lines that end in a
// line feed, so that no two proposals have the same one.
//
//	Ashlar approval v1
//	trustDomain shop.example
//	proposal <id, hex>
//	manifest <digest, hex>       (or: action <digest, hex>)
//	predecessor <digest, hex>
//	expires 2026-11-25T12:00:00Z
//	accepts drop-secrets         (names with a space between them; none: no space)
//	approve
func ApprovalText(trustDomain string, p Proposal) []byte {
	return []byte(strings.Join([]string{
		"Ashlar approval v1",
		"trustDomain " + trustDomain,
		"proposal " + p.ID.String(),
		p.Kind + " " + p.Digest.String(),
		"predecessor " + p.Predecessor.String(),
		"expires " + p.Expires.UTC().Format(time.RFC3339),
		strings.Join(append([]string{"accepts"}, p.Accepts...), " "),
		"approve", "",
	}, "\n"))
}

// SignApproval signs text as VerifyApproval checks it: ECDSA with SHA-256 on
// P-256 and SHA-384 on P-384 (ASN.1), Ed25519, or RSA-PSS with SHA-256.
func SignApproval(key crypto.Signer, text []byte) ([]byte, error) {
	var opts crypto.SignerOpts
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		opts = crypto.SHA256
		if k.Curve.Params().BitSize > 256 {
			opts = crypto.SHA384
		}
	case ed25519.PublicKey:
		return key.Sign(rand.Reader, text, crypto.Hash(0))
	case *rsa.PublicKey:
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	default:
		return nil, fmt.Errorf("a key of type %T cannot sign an approval", k)
	}
	h := opts.HashFunc().New()
	h.Write(text)
	return key.Sign(rand.Reader, h.Sum(nil), opts)
}

// VerifyApproval checks a signature of the certificate's key over text, as
// SignApproval makes it. Of RSA keys PKCS #1 v1.5 with SHA-256 counts too:
// tokens may know no other.
func VerifyApproval(cert *x509.Certificate, text, signature []byte) error {
	ok := false
	short := sha256.Sum256(text)
	switch k := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		sum := short[:]
		if k.Curve.Params().BitSize > 256 {
			long := sha512.Sum384(text)
			sum = long[:]
		}
		ok = ecdsa.VerifyASN1(k, sum, signature)
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, text, signature)
	case *rsa.PublicKey:
		pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
		ok = rsa.VerifyPSS(k, crypto.SHA256, short[:], signature, pss) == nil || rsa.VerifyPKCS1v15(k, crypto.SHA256, short[:], signature) == nil
	default:
		return fmt.Errorf("a key of type %T cannot sign an approval", k)
	}
	if !ok {
		return errors.New("the signature is not of this key over this text")
	}
	return nil
}
