package sim_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestConformance: the verifiers are verifiers like those of hardware.
func TestConformance(t *testing.T) {
	now := time.Now()
	p, err := platform.New(platform.Config{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	one := bytes.Repeat([]byte{1}, 32)
	for i, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
		t.Run(string(tee), func(t *testing.T) {
			e, err := p.NewInsecureIssuer(tee, platform.Measurement{Program: one, Agent: one}).Issue(t.Context(), attest.Bind(one))
			if err != nil {
				t.Fatal(err)
			}
			en, err := p.Endorse(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			attesttest.Verifier(t, func() attest.Verifier {
				vs, err := sim.NewVerifiers(p.Root())
				if err != nil {
					t.Fatal(err)
				}
				return vs[i]
			}, attesttest.Sample{Evidence: e, Endorsements: en, At: now})
		})
	}
}

// TestIntel: every field of simulated evidence counts as it does in Intel's.
func TestIntel(t *testing.T) {
	for i, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
		t.Run(string(tee), func(t *testing.T) {
			attesttest.Intel(t, tee, sim.Names, func(root *x509.Certificate) attest.Verifier {
				vs, err := sim.NewVerifiers(root)
				if err != nil {
					t.Fatal(err)
				}
				return vs[i]
			})
		})
	}
}

func TestNewVerifiersRefuses(t *testing.T) {
	if _, err := sim.NewVerifiers(nil); problem.CodeOf(err) != "ATT-094" {
		t.Errorf("no root: got %v, want ATT-094", err)
	}
	intel := dcap.IntelRoot()
	if _, err := sim.NewVerifiers(intel); problem.CodeOf(err) != "ATT-094" {
		t.Errorf("Intel's root: got %v, want ATT-094", err)
	}
	renamed := *intel
	renamed.Subject.CommonName = sim.Names + " Root CA"
	if _, err := sim.NewVerifiers(&renamed); problem.CodeOf(err) != "ATT-094" {
		t.Errorf("Intel's key under the simulation's name: got %v, want ATT-094", err)
	}
}

func TestNewIssuerRefuses(t *testing.T) {
	for want, c := range map[string]sim.Config{
		"Socket": {Shape: attest.SimSGX},
		"Shape":  {Socket: "s", Shape: attest.SGX},
		"Files":  {Socket: "s", Shape: attest.SimTDX, Files: make([]sim.File, sim.MaxFiles+1)},
	} {
		if _, err := sim.NewIssuer(c); err == nil || !strings.Contains(err.Error(), "sim.Config."+want) {
			t.Errorf("got %v, want an error that names %s", err, want)
		}
	}
	i, err := sim.NewIssuer(sim.Config{Socket: filepath.Join(t.TempDir(), "none"), Shape: attest.SimTDX})
	if err != nil {
		t.Fatal(err)
	}
	if i.TEE() != attest.SimTDX {
		t.Errorf("got TEE %q, want %q", i.TEE(), attest.SimTDX)
	}
	if _, err := i.Issue(context.Background(), attest.Binding{}); problem.CodeOf(err) != "ATT-090" {
		t.Errorf("no platform: got %v, want ATT-090", err)
	}
}

func TestFileDigest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := sim.FileDigest(path)
	if err != nil || got.String() != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("got %s, %v, want SHA-256 of abc", got, err)
	}
	if _, err := sim.FileDigest(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: got %v", err)
	}
}

func FuzzMessage(f *testing.F) {
	frame := func(body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	f.Add(frame(`{"op":"root"}`))
	f.Add(frame(`{"op":"evidence","tee":"sim:sgx","binding":"00","program":{"fd":3},"files":[{"name":"a","fd":4}]}`))
	f.Add(frame(`{"op":"sealkey","policy":"unique"}{}`))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var req sim.Request
		if err := sim.ReadMessage(bytes.NewReader(b), &req, sim.MaxRequest); err != nil {
			return
		}
		var out bytes.Buffer
		if err := sim.WriteMessage(&out, req, 8*sim.MaxRequest); err != nil {
			t.Fatal(err)
		}
		var again sim.Request
		if err := sim.ReadMessage(&out, &again, 8*sim.MaxRequest); err != nil {
			t.Errorf("what was read cannot be written and read again: %v", err)
		}
	})
}
