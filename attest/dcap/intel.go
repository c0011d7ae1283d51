package dcap

import (
	"crypto/x509"
	_ "embed" // the root below
	"encoding/pem"
	"fmt"
)

// intelRootPEM is Intel's SGX root CA, which also stands over TDX: serial
// 22650cd65a9d3489f383b49552bf501b392706ac, SHA-256
// 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3, as published at
// https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.pem.
// Intel publishes it for verifiers to embed; a certificate is a fact, and it
// carries no licence of its own.
//
//go:embed intel_root.pem
var intelRootPEM []byte

// IntelRoot returns Intel's SGX root CA, as it is pinned in packages sgx and
// tdx.
func IntelRoot() *x509.Certificate {
	block, _ := pem.Decode(intelRootPEM)
	if block == nil {
		panic("dcap: the embedded root is no PEM")
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		panic(fmt.Sprintf("dcap: the embedded root: %v", err))
	}
	return root
}
