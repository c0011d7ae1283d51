package issuer

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

// NV indices at which Google's vTPM keeps the template of a certified
// attestation key and its certificate.
const (
	googleCertificate = 0x01c10002
	googleTemplate    = 0x01c10003
)

// tpmOnly makes evidence with a TPM and nothing else. It leaves nothing in the
// TPM: the same template gives the same key each time.
type tpmOnly struct {
	machine Machine
	gate    gate
}

func probeTPM(_ context.Context, m Machine) (attest.Issuer, error) {
	err := m.withTPM(func(t transport.TPM) error {
		_, err := registers(t)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &tpmOnly{machine: m, gate: newGate()}, nil
}

// TEE implements attest.Issuer.
func (*tpmOnly) TEE() attest.TEE { return attest.TPM }

// Issue implements attest.Issuer.
func (i *tpmOnly) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	return issueTPM(ctx, i.gate, i.machine, attest.TPM, func(t transport.TPM) (raw []byte, err error) {
		template, certificates := certifiedKey(t)
		key, err := makeKey(t, template)
		if err != nil {
			return nil, err
		}
		defer func() {
			_, flush := tpm2.FlushContext{FlushHandle: key.handle.Handle}.Execute(t)
			err = errors.Join(err, flush)
		}()
		q, err := quote(t, key, b)
		if err != nil {
			return nil, err
		}
		return tpm.Encode(tpm.Document{Quote: q, Key: key.public, Certificates: certificates})
	})
}

// certifiedKey returns the template of a key that the cloud has certified, with
// the certificate, else the template of a key for which nobody stands.
func certifiedKey(t transport.TPM) (tpm2.TPM2BPublic, [][]byte) {
	template, err := readNV(t, googleTemplate)
	if err == nil {
		certificate, err := readNV(t, googleCertificate)
		public, malformed := tpm2.Unmarshal[tpm2.TPMTPublic](template)
		if err == nil && malformed == nil {
			return tpm2.New2B(*public), [][]byte{certificate}
		}
	}
	return tpm2.New2B(plainKey), nil
}

// plainKey is the template of a restricted ECDSA P-256 key: it signs only what
// the TPM itself has made.
var plainKey = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
		Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}}),
}

// makeKey makes a primary key of the endorsement hierarchy.
func makeKey(t transport.TPM, template tpm2.TPM2BPublic) (attestationKey, error) {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: template}.Execute(t)
	if err != nil {
		return attestationKey{}, fmt.Errorf("making an attestation key: %w", err)
	}
	return attestationKey{tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, rsp.OutPublic.Bytes()}, nil
}
