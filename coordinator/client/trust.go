package client

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// The files of a trust folder.
const (
	BundleFile   = "bundle.pem"    // the root CA certificate, and after it older ones that are still trusted, for any TLS client
	EvidenceFile = "evidence.json" // the statement, to be judged again
	TrustFile    = "trust.json"    // Trust: what to hold later statements against
)

// Trust is what a trust folder remembers of a verified coordinator.
type Trust struct {
	Address    string     `json:"address,omitempty"`
	VerifiedAt time.Time  `json:"verifiedAt"`
	TEE        attest.TEE `json:"tee"`
	Remembered
	Certificate *x509.Certificate `json:"-"` // the root, from BundleFile
}

// WriteTrust writes the outcome of a verification into dir, which is made if it
// is missing. Where dir remembers a newer or another state already, nothing is
// written and the refusal is CRD-103 or CRD-104. Each file is replaced whole,
// and trust.json last.
func WriteTrust(dir string, v Verified) error {
	if v.Root == nil || !v.Verdict.OK() {
		return problem.New("CRD-109", "nothing was verified")
	}
	old, err := LoadTrust(dir)
	switch {
	case err == nil:
		if _, err := FollowRoots(old.Root, apiv1.Roots{Root: v.Statement.Root, Steps: v.Statement.RootSteps}, v.At); err != nil {
			return err
		}
		if stays, err := stays(old.Remembered, v); stays || err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	evidence, err := json.MarshalIndent(v.Statement, "", "  ")
	if err != nil {
		return problem.Because(err, "CRD-109", "encoding the statement")
	}
	trust, err := json.MarshalIndent(Trust{Address: v.Address, VerifiedAt: v.At, TEE: v.Verdict.TEE, Remembered: v.Remembered()}, "", "  ")
	if err != nil {
		return problem.Because(err, "CRD-109", "encoding what to remember")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return problem.Because(err, "CRD-109", "making %s", dir)
	}
	var bundle []byte
	for _, der := range anchors(v.Statement, v.At) {
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	files := []struct {
		name string
		data []byte
	}{
		{EvidenceFile, append(evidence, '\n')},
		{BundleFile, bundle},
		{TrustFile, append(trust, '\n')},
	}
	for _, f := range files {
		if err := durable.WriteFile(filepath.Join(dir, f.name), f.data, 0o644); err != nil {
			return problem.Because(err, "CRD-109", "writing %s", f.name)
		}
	}
	return nil
}

// stays says whether a folder that remembers old has nothing to learn from v: it
// remembers a newer state, which somebody else has written while v was verified
// against the one before.
func stays(old Remembered, v Verified) (bool, error) {
	was, err := old.open()
	if err != nil {
		return false, err
	}
	followed := v.History != nil && v.History.Remembered
	if followed && was.Size > v.Checkpoint.Size && was.Origin == v.Checkpoint.Origin {
		return true, nil
	}
	if err := newer(old, v.Remembered()); err != nil {
		return false, err
	}
	if !followed && was.Size != v.Checkpoint.Size {
		return false, problem.New("LOG-058", "its log has %d entries, and a checkpoint over %d is remembered", v.Checkpoint.Size, was.Size)
	}
	return false, nil
}

// LoadTrust reads a trust folder. The error is CRD-109; it is fs.ErrNotExist
// too where the folder remembers nothing.
func LoadTrust(dir string) (Trust, error) {
	var t Trust
	b, err := os.ReadFile(filepath.Join(dir, TrustFile))
	if err != nil {
		return t, problem.Because(err, "CRD-109", "reading what is remembered")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return Trust{}, problem.Because(err, "CRD-109", "reading %s", filepath.Join(dir, TrustFile))
	}
	b, err = os.ReadFile(filepath.Join(dir, BundleFile))
	if err != nil {
		// Not fs.ErrNotExist: a folder that lost its bundle is damaged, not new.
		return Trust{}, problem.New("CRD-109", "reading the bundle: %s", err.Error())
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return Trust{}, problem.New("CRD-109", "%s holds no certificate", filepath.Join(dir, BundleFile))
	}
	if sum := sha256.Sum256(block.Bytes); !bytes.Equal(sum[:], t.Root) {
		return Trust{}, problem.New("CRD-109", "%s is not the root that %s remembers", BundleFile, TrustFile)
	}
	if t.Certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
		return Trust{}, problem.Because(err, "CRD-109", "reading %s", filepath.Join(dir, BundleFile))
	}
	return t, nil
}
