package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// MaxCertificates in one PEM chain; real ones have two or three.
const MaxCertificates = 8

// ParseCertificates reads a PEM chain strictly: at least one and at most
// MaxCertificates CERTIFICATE blocks without headers, white space around them,
// and nothing else.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	const space = " \t\r\n"
	var certs []*x509.Certificate
	rest := bytes.Trim(data, space)
	for len(rest) > 0 {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN CERTIFICATE-----")) {
			return nil, errors.New("no PEM certificate where one is expected")
		}
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, errors.New("damaged PEM")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if certs = append(certs, c); len(certs) > MaxCertificates {
			return nil, fmt.Errorf("more than %d certificates", MaxCertificates)
		}
		rest = bytes.TrimLeft(rest, space)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	return certs, nil
}
