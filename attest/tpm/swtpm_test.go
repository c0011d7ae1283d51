//go:build linux

package tpm_test

import (
	"bytes"
	"crypto"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

// machine is a software TPM (swtpm) with its own state, for one test.
type machine struct {
	t   *testing.T
	tpm transport.TPM
}

// start runs a TPM until the test ends.
func start(t *testing.T) *machine {
	t.Helper()
	path, err := exec.LookPath("swtpm")
	if err != nil {
		t.Fatal("swtpm is missing: install Debian's package swtpm")
	}
	dir, err := os.MkdirTemp("", "swtpm") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(path, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "c"), "--flags", "not-need-init,startup-clear")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	conn := dial(t, socket)
	t.Cleanup(func() { conn.Close() })
	return &machine{t, transport.FromReadWriter(conn)}
}

// dial waits until the TPM listens.
func dial(t *testing.T, socket string) net.Conn {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn
		}
		if time.Now().After(deadline) {
			t.Fatalf("swtpm does not listen: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// key is an attestation key in the TPM.
type key struct {
	handle tpm2.NamedHandle
	public []byte // TPMT_PUBLIC
	scheme tpm2.TPMTSigScheme
}

// attributes of an attestation key.
func attributes() tpm2.TPMAObject {
	return tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true}
}

func rsaTemplate(alg tpm2.TPMAlgID, bits tpm2.TPMKeyBits, a tpm2.TPMAObject) tpm2.TPMTPublic {
	var details tpm2.TPMUAsymScheme
	if alg == tpm2.TPMAlgRSAPSS {
		details = tpm2.NewTPMUAsymScheme(alg, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA256})
	} else {
		details = tpm2.NewTPMUAsymScheme(alg, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})
	}
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: a,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: bits, Scheme: tpm2.TPMTRSAScheme{Scheme: alg, Details: details}})}
}

func eccTemplate(curve tpm2.TPMECCCurve, hash tpm2.TPMAlgID, a tpm2.TPMAObject) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: a,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash})}})}
}

// create makes a primary key in the endorsement hierarchy.
func (m *machine) create(template tpm2.TPMTPublic) key {
	m.t.Helper()
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(m.tpm)
	if err != nil {
		m.t.Fatalf("making a key: %v", err)
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		m.t.Fatal(err)
	}
	k := key{handle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, public: tpm2.Marshal(public)}
	k.scheme = tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}
	return k
}

func (m *machine) extend(pcr int, digest []byte) {
	m.t.Helper()
	_, err := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}}}.Execute(m.tpm)
	if err != nil {
		m.t.Fatalf("extending PCR %d: %v", pcr, err)
	}
}

func (m *machine) read(pcr uint) []byte {
	m.t.Helper()
	rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(tpm2.TPMAlgSHA256, pcr)}.Execute(m.tpm)
	if err != nil {
		m.t.Fatalf("reading PCR %d: %v", pcr, err)
	}
	return rsp.PCRValues.Digests[0].Buffer
}

func selection(bank tpm2.TPMAlgID, pcrs ...uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}
}

// quote quotes registers of the SHA-256 bank.
func (m *machine) quote(k key, data []byte, pcrs ...uint) tpm.Document {
	m.t.Helper()
	return m.quoteBank(k, data, selection(tpm2.TPMAlgSHA256, pcrs...), pcrs...)
}

func (m *machine) quoteBank(k key, data []byte, sel tpm2.TPMLPCRSelection, pcrs ...uint) tpm.Document {
	m.t.Helper()
	d := tpm.Document{Key: k.public, Quote: tpm.Quote{PCRs: map[string]attest.Hex{}}}
	for _, n := range pcrs {
		d.Quote.PCRs[strconv.Itoa(int(n))] = m.read(n)
	}
	rsp, err := tpm2.Quote{SignHandle: tpm2.AuthHandle{Handle: k.handle.Handle, Name: k.handle.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: data}, InScheme: k.scheme, PCRSelect: sel}.Execute(m.tpm)
	if err != nil {
		m.t.Fatalf("quoting: %v", err)
	}
	d.Quote.Attested = rsp.Quoted.Bytes()
	d.Quote.Signature = tpm2.Marshal(rsp.Signature)
	return d
}

// publicKey returns the crypto key of a TPMT_PUBLIC.
func publicKey(t *testing.T, public []byte) crypto.PublicKey {
	t.Helper()
	p, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		t.Fatal(err)
	}
	k, err := tpm2.Pub(*p)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
