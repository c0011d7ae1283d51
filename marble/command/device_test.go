package command

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

// script writes an executable script.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "collect")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCollector(t *testing.T) {
	t.Setenv("SSLKEYLOGFILE", "x")
	t.Setenv("ASHLAR_DIR", "x")
	nonce := [32]byte{0xab, 1}
	for name, c := range map[string]struct {
		text string
		want string // of the evidence; "" is a failure that says fail
		fail string
	}{
		"nonce":           {`printf 'report %s %s' "$1" "$#"`, "report " + hex.EncodeToString(nonce[:]) + " 1", ""},
		"environment":     {`printf '%s' "[$SSLKEYLOGFILE$ASHLAR_DIR]${PATH:+path}"`, "[]path", ""},
		"chatty":          {`echo hello >&2; printf evidence`, "evidence", ""},
		"as large as may": {`head -c 65536 /dev/zero | tr '\0' e`, strings.Repeat("e", attest.MaxEvidence), ""},
		"too large":       {`head -c 65537 /dev/zero`, "", "more than 65536 bytes"},
		"silent":          {`exit 0`, "", "wrote nothing"},
		"fails":           {`printf evidence; echo no GPU >&2; exit 3`, "", `exit status 3`},
		"complains":       {`head -c 100000 /dev/zero | tr '\0' x >&2; exit 1`, "", strings.Repeat("x", maxComplaint) + `"`},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := collector{"gpu", script(t, c.text)}.IssueDevice(t.Context(), nonce)
			if c.want == "" {
				if problem.CodeOf(err) != "MRB-028" || !strings.Contains(err.Error(), c.fail) || len(err.Error()) > 2000 || d.Raw != nil {
					t.Errorf("got %v, want MRB-028 with %q", err, c.fail)
				}
				return
			}
			if err != nil || string(d.Raw) != c.want || d.Name != "gpu" || d.TEE != attest.NVIDIA {
				t.Errorf("got %.80q of %s %s, %v", d.Raw, d.Name, d.TEE, err)
			}
		})
	}
}

func TestCollectorIsEndedWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	_, err := collector{"gpu", script(t, "exec sleep 1000")}.IssueDevice(ctx, [32]byte{})
	if problem.CodeOf(err) != "MRB-028" || !errors.Is(err, reason) {
		t.Errorf("got %v, want MRB-028 for %v", err, reason)
	}
}

func TestDeviceFlags(t *testing.T) {
	for flag, want := range map[string]string{
		"gpu=/bin/true": "", "gpu": "want NAME=COMMAND", "=x": "want NAME=COMMAND", "gpu=": "want NAME=COMMAND", "GPU=x": "want NAME=COMMAND",
		"first=x": "comes twice",
	} {
		c := collectors{{"first", "x"}}
		err := c.Set(flag)
		if got := fmt.Sprint(err); (err == nil) != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %v, want %q", flag, err, want)
		}
	}
	var many collectors
	for i := range attest.MaxDevices {
		if err := many.Set(fmt.Sprintf("gpu%d=x", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := many.Set("one-more=x"); err == nil {
		t.Errorf("%d devices were taken", len(many))
	}
	if _, err := (collectors{{"gpu", "/does/not/exist"}}).issuers(); problem.CodeOf(err) != "MRB-029" {
		t.Errorf("got %v, want MRB-029", err)
	}
}

// The TEE vouches for what the device answered to this request's nonce.
func TestDeviceIsVouchedFor(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	b := marbletest.Behaviour{Parameters: x.parameters(map[string]string{"CODE": "0"})}
	requests := make(chan *marblepb.ActivateRequest, 1)
	b.Activated = func(r *marblepb.ActivateRequest) error {
		requests <- r
		return nil
	}
	x.coordinator.Behave(b)
	collect := script(t, `printf 'gpu answers %s' "$1"`)
	p := x.start([]string{"--device", "gpu=" + collect}, os.Args[0])
	if code := p.code(t); code != 0 {
		t.Fatalf("got exit code %d\n%s", code, p.stderr.String())
	}
	r := <-requests
	if len(r.GetEvidence().GetDevices()) != 1 {
		t.Fatalf("got %d devices, want 1", len(r.GetEvidence().GetDevices()))
	}
	d := r.GetEvidence().GetDevices()[0]
	nonce := binding.DeviceNonce(r.GetNonce(), binding.KeyHash(r.GetPublicKey()))
	if want := "gpu answers " + hex.EncodeToString(nonce[:]); string(d.GetRaw()) != want || d.GetName() != "gpu" || d.GetTee() != "nvidia" {
		t.Errorf("got %q of %s %s, want %q", d.GetRaw(), d.GetName(), d.GetTee(), want)
	}
	claims, err := binding.Parse(r.GetEvidence().GetClaimsBuffer())
	if err != nil {
		t.Fatal(err)
	}
	sum := attest.DevicesDigest([]attest.Device{{Name: "gpu", TEE: attest.NVIDIA, Raw: d.GetRaw()}})
	if string(claims.Devices) != string(sum[:]) {
		t.Errorf("the claims name the devices %x, want %x", claims.Devices, sum)
	}
}

func TestDeviceThatFails(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	p := x.start([]string{"--device", "gpu=/does/not/exist"}, os.Args[0])
	if code := p.code(t); code != 6 || !strings.Contains(p.stderr.String(), "MRB-029") {
		t.Errorf("got exit code %d, want 6 and MRB-029:\n%s", code, p.stderr.String())
	}
}
