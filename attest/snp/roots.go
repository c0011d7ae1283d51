package snp

import (
	"crypto/x509"
	_ "embed" // the certificates below
	"encoding/pem"
	"fmt"
	"strings"
)

// AMD's certificates: the root (ARK) of each product, then the CA of its chips'
// keys (ASK) and the CA of its providers' keys (ASVK), as served at
// https://kdsintf.amd.com/{vcek,vlek}/v1/{Milan,Genoa,Turin}/cert_chain.
// SHA-256 of the roots: Milan 69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd,
// Genoa 4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1,
// Turin 1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a.
// AMD publishes them for verifiers to embed; a certificate is a fact, and they
// carry no licence of their own.
var (
	//go:embed roots/milan.pem
	milanPEM []byte
	//go:embed roots/genoa.pem
	genoaPEM []byte
	//go:embed roots/turin.pem
	turinPEM []byte
)

func amd() Config {
	var c Config
	for _, data := range [][]byte{milanPEM, genoaPEM, turinPEM} {
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				panic(fmt.Sprintf("snp: an embedded certificate: %v", err))
			}
			if strings.HasPrefix(cert.Subject.CommonName, rootPrefix) {
				c.Roots = append(c.Roots, cert)
			} else {
				c.Intermediates = append(c.Intermediates, cert)
			}
		}
	}
	return c
}
