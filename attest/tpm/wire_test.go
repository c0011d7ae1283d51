package tpm_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

// TestWire verifies the document in docs/wire.md.
func TestWire(t *testing.T) {
	text, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```vector tpm-document\njson:\n(.*)\nattestation-key: (.*?)\nreport-data:\n(.*?)\n```").FindStringSubmatch(string(text))
	if block == nil {
		t.Fatal("no vector tpm-document")
	}
	for i, part := range block {
		block[i] = strings.ReplaceAll(strings.TrimPrefix(part, "  "), "\n  ", "")
	}
	c, steps := tpm.NewVerifier().Verify(attest.Evidence{TEE: attest.TPM, Raw: []byte(block[1])}, attest.Endorsements{}, certifiedAt)
	if f := failures(steps); f != "" {
		t.Fatalf("failed: %s", f)
	}
	if got := c.TPM.AttestationKey.String(); got != block[2] {
		t.Errorf("attestation key: got %s, want %s", got, block[2])
	}
	if got := c.ReportData.String(); got != block[3] {
		t.Errorf("report data: got %s, want %s", got, block[3])
	}
}
