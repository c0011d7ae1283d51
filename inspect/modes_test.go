package inspect

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/inspect/enclave"
	"github.com/ashlar-mesh/ashlar/inspect/launch"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestModesOfEnclaves says what the attributes of a signed enclave mean for a
// policy.
func TestModesOfEnclaves(t *testing.T) {
	for _, c := range []struct {
		name                     string
		attributes, mask         byte
		unfit, kss, debug, notes string
	}{
		{"production", 0x04, 0xff, "", "", "no", ""},
		{"either", 0x04, 0xfd, "", "", "allowed", "debug mode"},
		{"debug only", 0x06, 0xff, "debug mode only", "", "only", ""},
		{"KSS", 0x84, 0xff, "", "0a", "no", ""},
		{"provisioning", 0x14, 0xff, "", "", "no", "allowKeyAttributes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := enclave.SigStruct{Attributes: [16]byte{c.attributes}, AttributeMask: [16]byte{c.mask}, FamilyID: [16]byte{10}}
			f := signedEnclave("x", s)
			if (c.unfit == "") != (f.Unfit == "") || !strings.Contains(f.Unfit, c.unfit) || !strings.Contains(strings.Join(f.Notes, " "), c.notes) {
				t.Errorf("got %q, %q, want %q, %q", f.Unfit, f.Notes, c.unfit, c.notes)
			}
			if family := f.Package.SGX.FamilyID; (len(family) == 1) != (c.kss != "") || c.kss != "" && !strings.HasPrefix(family[0].String(), c.kss) {
				t.Errorf("got family %v, want %q", family, c.kss)
			}
			if got := value(f, "sgx.debug"); got != c.debug {
				t.Errorf("got debug %s, want %s", got, c.debug)
			}
		})
	}
}

func value(f Finding, name string) string {
	for _, x := range f.Fields {
		if x.Name == name {
			return x.Value
		}
	}
	return ""
}

// TestModesOfIGVM sets bits of the guest policy in an IGVM file.
func TestModesOfIGVM(t *testing.T) {
	raw, err := os.ReadFile("launch/testdata/guest.igvm")
	if err != nil {
		t.Fatal(err)
	}
	const policy = 24 + 2*24 + 8 // behind the fixed header and two platforms
	for _, c := range []struct {
		bit         int
		unfit, note string
	}{{-1, "", ""}, {18, "", "migration agent"}, {19, "debugging", ""}} {
		b := append([]byte(nil), raw...)
		if c.bit >= 0 {
			b[policy+c.bit/8] |= 1 << (c.bit % 8)
		}
		headers := binary.LittleEndian.Uint32(b[12:])
		clear(b[20:24])
		binary.LittleEndian.PutUint32(b[20:], crc32.ChecksumIEEE(b[:24+headers]))
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Path(path, Options{Now: time.Unix(0, 0), TEE: attest.SNP, VMM: launch.QEMU, Order: launch.PerPage})
		if err != nil {
			t.Fatal(err)
		}
		if (c.unfit == "") != (f.Unfit == "") || !strings.Contains(f.Unfit, c.unfit) || !strings.Contains(strings.Join(f.Notes, " "), c.note) {
			t.Errorf("bit %d: got %q, %q, want %q, %q", c.bit, f.Unfit, f.Notes, c.unfit, c.note)
		}
		if _, err := f.Reference(true); (problem.CodeOf(err) == "CLI-026") != (c.unfit != "") {
			t.Errorf("bit %d: got %v", c.bit, err)
		}
	}
}

// TestTDXNotes checks the notes that a v5 quote's service TD and a guest without
// SEPT_VE_DISABLE give.
func TestTDXNotes(t *testing.T) {
	var f Finding
	ref := f.tdxClaims(&attest.TDXClaims{MRTD: make([]byte, 48), TDAttributes: make([]byte, 8), MRServiceTD: append(make([]byte, 47), 1)})
	if len(ref.MRServiceTD) != 1 || !strings.Contains(strings.Join(f.Notes, " "), "allowSEPTVE") {
		t.Errorf("got %+v, %q", ref, f.Notes)
	}
	f = Finding{}
	ref = f.tdxClaims(&attest.TDXClaims{TDAttributes: []byte{0, 0, 0, 0x10, 0, 0, 0, 0}, MRServiceTD: make([]byte, 48)})
	if ref.MRServiceTD != nil || strings.Contains(strings.Join(f.Notes, " "), "allowSEPTVE") {
		t.Errorf("got %+v, %q", ref, f.Notes)
	}
}
