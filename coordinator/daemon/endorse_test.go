package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/snp"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// platformOf is a verifier that reads the FMSPC out of the evidence.
type platformOf struct{}

func (platformOf) TEE() attest.TEE { return attest.SGX }

func (platformOf) Verify(e attest.Evidence, _ attest.Endorsements, _ time.Time) (attest.Claims, []attest.Step) {
	return attest.Claims{TCB: attest.TCBClaims{FMSPC: attest.Hex(e.Raw)}}, nil
}

func TestFolderOfEndorsements(t *testing.T) {
	root := t.TempDir()
	f := &folder{root: root, verifiers: attest.NewVerifiers(platformOf{}), now: time.Now}
	e := attest.Evidence{TEE: attest.SGX, Raw: []byte{0, 0x60, 0x6a, 0, 0, 0}}
	if _, err := f.get(e); problem.CodeOf(err) != "CRD-133" || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "sgx/00606a000000") {
		t.Errorf("no folder: got %v, want CRD-133 naming the platform", err)
	}
	dir := filepath.Join(root, "sgx", "00606a000000")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(attest.KindTCBInfo, "{}")
	if _, err := f.get(e); problem.CodeOf(err) != "CRD-133" {
		t.Errorf("a document without its chain: got %v, want CRD-133", err)
	}
	put("tcb_info_issuer_chain.pem", "chain")
	put(attest.KindRootCRL, "old")
	set, err := f.get(e)
	if err != nil || len(set.Items()) != 2 {
		t.Fatalf("got %d documents, %v, want 2", len(set.Items()), err)
	}
	put(attest.KindRootCRL, "newer")
	set, err = f.get(e)
	if crl, _ := set.Get(attest.KindRootCRL); err != nil || string(crl.Body) != "newer" {
		t.Errorf("got %q, %v, want the file as it is now", crl.Body, err)
	}
	put(attest.KindRootCRL, strings.Repeat("x", maxEndorsement+1))
	if _, err := f.get(e); problem.CodeOf(err) != "CRD-133" {
		t.Errorf("too large: got %v, want CRD-133", err)
	}
	snpFolders(t, root)
	// Evidence that names no platform, or of a TEE that nobody verifies, is for
	// the verdict to refuse.
	for _, odd := range []attest.Evidence{{TEE: attest.SGX}, {TEE: attest.TDX, Raw: e.Raw}, {TEE: "../..", Raw: e.Raw}} {
		if set, err := f.get(odd); err != nil || len(set.Items()) != 0 {
			t.Errorf("%v: got %d documents, %v, want none", odd, len(set.Items()), err)
		}
	}
	if _, err := (&folder{verifiers: f.verifiers, now: time.Now}).get(e); problem.CodeOf(err) != "CRD-133" {
		t.Errorf("no folder configured: got %v, want CRD-133", err)
	}
}

// snpFolders checks where the documents of real SEV-SNP reports are looked for.
func snpFolders(t *testing.T, root string) {
	t.Helper()
	f := &folder{root: root, verifiers: attest.NewVerifiers(snp.NewVerifier()), now: time.Now}
	for name, want := range map[string]string{
		"snp/virtee-milan-v2-vcek": "snp/d49554ec717f4e5b0fe6b143bcf0405bd7ae304727edf46603f2a76aef6a3abc15d7af38db757039029f0efacfd08e244324884738c72b082e2f87a44d541eb6",
		"snp/msft-turin-v5-vcek":   "snp/59790fb1c39f35c1" + strings.Repeat("0", 112),
		"snp/trustee-vlek":         "snp/vlek",
	} {
		s := attesttest.Load(t, name)
		if _, err := f.get(s.Evidence); problem.CodeOf(err) != "CRD-133" || !strings.Contains(err.Error(), want+":") {
			t.Errorf("%s: got %v, want CRD-133 naming %s", name, err, want)
		}
		dir := filepath.Join(root, filepath.FromSlash(want))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, it := range s.Endorsements.Items() {
			if err := os.WriteFile(filepath.Join(dir, it.Kind), it.Body, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		set, err := f.get(s.Evidence)
		if err != nil || set.Digest() != s.Endorsements.Digest() {
			t.Errorf("%s: got %d documents, %v, want those of the folder", name, len(set.Items()), err)
		}
	}
}
