package fetch_test

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/attest/sim/services"
)

// ofNoChip is a report with the chip ID changed: nobody signed it, and AMD knows
// no such chip.
func ofNoChip(t *testing.T, s attesttest.Set, which byte) attest.Evidence {
	t.Helper()
	chip := needOf(t, s).ChipID
	at := bytes.Index(s.Evidence.Raw, chip)
	if at < 0 {
		t.Fatal("the report does not hold its chip ID")
	}
	e := s.Evidence
	e.Raw = bytes.Clone(e.Raw)
	e.Raw[at] ^= which
	return e
}

// TestChipsOfNobody: a report of a chip that does not exist gets the product's
// CRL and no more: nothing on the disk, and no question of AMD in the background.
func TestChipsOfNobody(t *testing.T) {
	real := attesttest.Load(t, "snp/msft-milan-v3-vcek")
	forged := ofNoChip(t, real, 1)
	dir := t.TempDir()
	w := newWorld(t, real.At(), real.Endorsements)
	w.open(dir)
	w.endorse(forged)
	asked := w.service.Requests("vcek")
	for range 3 {
		w.endorse(forged)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(files) != 0 {
		t.Errorf("got files %v, %v, want none", files, err)
	}
	w.pass(time.Hour)
	w.store.RenewDue(t.Context())
	if got := w.service.Requests("vcek"); asked == 0 || got != asked {
		t.Errorf("asked for the certificate %d times, then %d times in the background; want once and no more", asked, got)
	}
	w.endorse(real.Evidence)
	w.pass(time.Hour)
	before := w.service.Requests("crl")
	w.store.RenewDue(t.Context())
	if got := w.service.Requests("crl"); got == before {
		t.Error("the set of the real chip is not renewed in the background")
	}
}

// TestStrangersAskSlowly: however many chips strangers name, and however often,
// AMD is asked for one a second.
func TestStrangersAskSlowly(t *testing.T) {
	real := attesttest.Load(t, "snp/msft-milan-v3-vcek")
	w := newWorld(t, real.At(), real.Endorsements)
	round := func() int {
		before := w.service.Requests("vcek")
		for which := byte(1); which <= 60; which++ {
			_, _ = w.store.Endorse(t.Context(), ofNoChip(t, real, which)) // all that counts is who was asked
		}
		return w.service.Requests("vcek") - before
	}
	if got := round(); got != 60 {
		t.Errorf("got %d questions at first, want the burst of 60", got)
	}
	w.pass(31 * time.Second)
	if got := round(); got > 64-60+31 {
		t.Errorf("got %d questions after 31 seconds, want at most %d", got, 64-60+31)
	}
}

// TestClockPutBack: what was noted by a clock that was far ahead does not keep
// the store from asking.
func TestClockPutBack(t *testing.T) {
	const ahead = 365 * 24 * time.Hour
	s := attesttest.Load(t, tdxSet)
	for name, c := range map[string]struct {
		set    attest.Endorsements
		faults []services.Fault
	}{
		"set":     {s.Endorsements, nil},
		"failure": {attest.Endorsements{}, nil},
		"penance": {s.Endorsements, []services.Fault{{Times: 1, Status: 429, RetryAfter: 600}}},
	} {
		w := newWorld(t, s.At().Add(ahead), c.set)
		w.open("", w.pccs(""))
		w.service.Script(c.faults...)
		_, _ = w.store.Endorse(t.Context(), s.Evidence) // as the case has it
		w.pass(-ahead)
		w.service.Script()
		w.service.Serve(s.Endorsements)
		before := w.service.Requests("tcbInfo")
		if got, err := w.store.Endorse(t.Context(), s.Evidence); err != nil || len(got.Items()) == 0 {
			t.Errorf("%s: got %d documents, %v", name, len(got.Items()), err)
		}
		if w.service.Requests("tcbInfo") == before {
			t.Errorf("%s: nobody was asked after the clock was put back", name)
		}
	}
}

// TestAddressesWithSecrets are refused without being repeated.
func TestAddressesWithSecrets(t *testing.T) {
	const secret = "hunter2"
	for _, address := range []string{"https://me:" + secret + "@pccs.example", "https://pccs.example/?key=" + secret, "https://me:" + secret + "@pccs.example:x", "me:" + secret + "@pccs"} {
		for kind, open := range map[string]func(fetch.ClientConfig) error{
			"pccs": func(c fetch.ClientConfig) error { _, err := fetch.NewPCCS(c); return err },
			"kds":  func(c fetch.ClientConfig) error { _, err := fetch.NewKDS(c); return err },
		} {
			err := open(fetch.ClientConfig{URL: address})
			if err == nil || bytes.Contains([]byte(err.Error()), []byte(secret)) {
				t.Errorf("%s %s: got %v, want an error without the secret", kind, address, err)
			}
		}
	}
}
