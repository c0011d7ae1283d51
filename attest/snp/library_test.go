//go:build !js

package snp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"

	"github.com/ashlar-mesh/ashlar/attest"
)

// mutations is how many changed reports both parsers read.
const mutations = 100_000

// library is what go-sev-guest reads, under the limits that parse has besides:
// one size, versions 2 to 5, ECDSA P-384, and a key that signed.
func library(raw []byte) (*sevsnp.Report, abi.SignerInfo, error) {
	if len(raw) != abi.ReportSize {
		return nil, abi.SignerInfo{}, errors.New("size")
	}
	f, err := abi.ReportToProto(raw)
	if err != nil {
		return nil, abi.SignerInfo{}, err
	}
	info, err := abi.ParseSignerInfo(f.SignerInfo)
	if err == nil && (f.Version < abi.ReportVersion2 || f.Version > abi.ReportVersion5 || f.SignatureAlgo != abi.SignEcdsaP384Sha384 || info.SigningKey == abi.NoneReportSigner) {
		err = errVersion
	}
	return f, info, err
}

// agree compares both parsers on raw, field by field, and reports whether they
// read it.
func agree(t *testing.T, raw []byte) bool {
	t.Helper()
	f, info, theirs := library(raw)
	r, ours := parse(raw)
	if (ours == nil) != (theirs == nil) {
		t.Fatalf("got %v, go-sev-guest says %v", ours, theirs)
	}
	if ours != nil {
		return false
	}
	s := r.claims(Milan).SNP
	for name, pair := range map[string][2][]byte{"family ID": {s.FamilyID, f.FamilyId}, "image ID": {s.ImageID, f.ImageId},
		"measurement": {s.Measurement, f.Measurement}, "host data": {s.HostData, f.HostData}, "ID key digest": {s.IDKeyDigest, f.IdKeyDigest},
		"author key digest": {s.AuthorKeyDigest, f.AuthorKeyDigest}, "report ID": {s.ReportID, f.ReportId},
		"migration agent": {s.ReportIDMA, f.ReportIdMa}, "chip ID": {s.ChipID, f.ChipId}, "report data": {r.claims(Milan).ReportData, f.ReportData},
		"signed bytes": {raw[:signedSize], abi.SignedComponent(raw)}} {
		if !bytes.Equal(pair[0], pair[1]) {
			t.Errorf("%s: got %x, want %x", name, pair[0], pair[1])
		}
	}
	numbers := [...]uint64{uint64(r.version), uint64(r.guestSVN), uint64(r.vmpl), r.policy, r.platform, r.currentTCB, r.reportedTCB, r.committedTCB, r.launchTCB,
		r.launchMitigations, r.currentMitigations}
	want := [...]uint64{uint64(f.Version), uint64(f.GuestSvn), uint64(f.Vmpl), f.Policy, f.PlatformInfo, f.CurrentTcb, f.ReportedTcb, f.CommittedTcb, f.LaunchTcb,
		f.LaunchMitVector, f.CurrentMitVector}
	if numbers != want {
		t.Errorf("got %x, want %x", numbers, want)
	}
	firmware := func(major, minor, build uint32) attest.SNPFirmware {
		return attest.SNPFirmware{Major: uint8(major), Minor: uint8(minor), Build: uint8(build)}
	}
	if c, d := firmware(f.CurrentMajor, f.CurrentMinor, f.CurrentBuild), firmware(f.CommittedMajor, f.CommittedMinor, f.CommittedBuild); r.current != c || r.committed != d {
		t.Errorf("firmware: got %v and %v, want %v and %v", r.current, r.committed, c, d)
	}
	if string(r.signer) != info.SigningKey.String() {
		t.Errorf("signer: got %s, want %s", r.signer, info.SigningKey)
	}
	if f.Version >= abi.ReportVersion3 {
		if family, model, _ := abi.FmsFromCpuid1Eax(f.Cpuid1EaxFms); r.product != productOf(family, model) {
			t.Errorf("product: got %q, want that of family %d, model %d", r.product, family, model)
		}
	}
	agreeOnPolicy(t, s, f)
	return true
}

func agreeOnPolicy(t *testing.T, s *attest.SNPClaims, f *sevsnp.Report) {
	t.Helper()
	p, err := abi.ParseSnpPolicy(f.Policy)
	if err != nil {
		t.Fatal(err)
	}
	got := abi.SnpPolicy{ABIMinor: p.ABIMinor, ABIMajor: p.ABIMajor, SMT: s.Policy.SMT, MigrateMA: s.Policy.MigrateMA, Debug: s.Policy.Debug,
		SingleSocket: s.Policy.SingleSocket, CXLAllowed: s.Policy.CXL, MemAES256XTS: s.Policy.AES256XTS, RAPLDis: s.Policy.RAPLDisabled,
		CipherTextHidingDRAM: s.Policy.CiphertextHiding, PageSwapDisable: s.Policy.PageSwapDisabled}
	if got != p {
		t.Errorf("policy: got %+v, want %+v", got, p)
	}
	info, err := abi.ParseSnpPlatformInfo(f.PlatformInfo)
	if err != nil {
		return // the library refuses bits that it has no name for
	}
	g := s.Platform
	if have := (abi.SnpPlatformInfo{SMTEnabled: g.SMT, TSMEEnabled: g.TSME, ECCEnabled: g.ECC, RAPLDisabled: g.RAPLDisabled,
		CiphertextHidingDRAMEnabled: g.CiphertextHiding, AliasCheckComplete: g.AliasCheck, TIOEnabled: g.TIO}); have != info {
		t.Errorf("platform: got %+v, want %+v", have, info)
	}
}

func reports(t testing.TB) [][]byte {
	t.Helper()
	names, err := filepath.Glob("../attesttest/testdata/evidence/snp/*/report.bin") // attesttest imports this package
	if err != nil || len(names) < 10 {
		t.Fatalf("got %d reports, %v, want those of all sets", len(names), err)
	}
	all := make([][]byte, len(names))
	for i, name := range names {
		if all[i], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestParserAgainstTheLibrary compares both parsers on every real report and on
// changed ones: bits, bytes and whole words, whose places prefer the fields that
// both judge.
func TestParserAgainstTheLibrary(t *testing.T) {
	all := reports(t)
	for _, raw := range all {
		agree(t, raw)
		agree(t, raw[:len(raw)-1])
		agree(t, append(bytes.Clone(raw), 0))
	}
	judged := []int{0x00, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0f, 0x34, 0x48, 0x49, 0x4b, 0x4c, 0x4f, 0x188, 0x189, 0x18a, 0x18b, 0x19f, 0x1eb, 0x1ef, 0x207, 0x208, 0x29f, 0x330, 0x49f}
	rng := rand.New(rand.NewPCG(1, 2))
	read := 0
	for i := range mutations {
		raw := bytes.Clone(all[i%len(all)])
		for range 1 + rng.IntN(3) {
			at := rng.IntN(len(raw) - 8)
			if rng.IntN(2) == 0 {
				at = min(judged[rng.IntN(len(judged))], len(raw)-1)
			}
			switch rng.IntN(4) {
			case 0, 1:
				raw[at] ^= 1 << rng.IntN(8)
			case 2:
				raw[at] = byte(rng.IntN(256))
			case 3:
				if at &^= 7; at+8 <= len(raw) {
					binary.LittleEndian.PutUint64(raw[at:], rng.Uint64()>>rng.IntN(64))
				}
			}
		}
		if agree(t, raw) {
			read++
		}
		if t.Failed() {
			t.Fatalf("mutation %d: %x", i, raw)
		}
	}
	if read < mutations/10 || read > mutations*9/10 {
		t.Errorf("got %d of %d read: the mutations miss one side", read, mutations)
	}
}

// FuzzReport compares both parsers on hostile bytes.
func FuzzReport(f *testing.F) {
	for _, raw := range reports(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) { agree(t, raw) })
}
