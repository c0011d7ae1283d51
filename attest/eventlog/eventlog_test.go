package eventlog

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pcrs reads the registers that tpm2_eventlog replayed.
func pcrs(t testing.TB, name string) map[string]attest.Hex {
	t.Helper()
	m := map[string]attest.Hex{}
	for _, line := range strings.Split(strings.TrimSpace(string(read(t, name))), "\n") {
		register, value, _ := strings.Cut(line, " ")
		b, err := hex.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		m[register] = b
	}
	return m
}

// rtmrs reads the runtime registers out of a TDX quote version 4.
func rtmrs(quote []byte) map[string]attest.Hex {
	const first = 48 + 328
	m := map[string]attest.Hex{}
	for i, name := range []string{"rtmr0", "rtmr1", "rtmr2", "rtmr3"} {
		m[name] = quote[first+48*i : first+48*(i+1)]
	}
	return m
}

type real struct {
	log     string
	bank    Bank
	vouched map[string]attest.Hex
	events  int
	want    []attest.Event // among the events, without digest
}

func reals(t testing.TB) []real {
	return []real{
		{"gcp-tdx-cos.ccel", TDX(), rtmrs(read(t, "gcp-tdx-cos.quote")), 43, []attest.Event{
			{Register: "rtmr0", Type: "EV_EFI_VARIABLE_DRIVER_CONFIG", Name: "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c = 00", Proven: true},
			{Register: "rtmr1", Type: "EV_EFI_BOOT_SERVICES_APPLICATION", Name: `PciRoot(0)/Pci(4,0)/Path(3,23)/HD(12,GPT,58ec8b8f-8e5b-ed42-83a4-0691abb8f3c7)/\EFI\BOOT\BOOTX64.EFI`},
			{Register: "rtmr1", Type: "EV_EFI_GPT_EVENT", Name: "partition table of disk e0c6c56e-5ef7-8e4a-ace6-3c31a7f75a29", Proven: true},
			{Register: "rtmr2", Type: "EV_IPL", Name: "grub_cmd: set default=2", Proven: true},
			{Register: "rtmr2", Type: "EV_IPL", Name: "/syslinux/vmlinuz.A"},
			{Register: "rtmr1", Type: "EV_EFI_ACTION", Name: "Exit Boot Services Returned with Success", Proven: true},
		}},
		{"gcp-tpm-ubuntu.log", TPM(), pcrs(t, "gcp-tpm-ubuntu.pcrs"), 116, []attest.Event{
			{Register: "pcr0", Type: "EV_S_CRTM_VERSION", Name: "GCE Virtual Firmware v2", Proven: true},
			{Register: "pcr9", Type: "EV_EVENT_TAG", Name: "tag 0x8f3b22ed: LOADED_IMAGE::LoadOptions"},
			{Register: "pcr8", Type: "EV_IPL", Name: "kernel_cmdline: /vmlinuz-6.8.0-1010-gcp root=PARTUUID=8270f3c9-b4e4-4345-80ee-5a62db7ebf3f ro console=ttyS0,115200 panic=-1", Proven: true},
		}},
		{"tpm-rhel8.log", TPM(), pcrs(t, "tpm-rhel8.pcrs"), 82, []attest.Event{
			{Register: "pcr7", Type: "EV_EFI_VARIABLE_DRIVER_CONFIG", Name: "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c = 01", Proven: true},
		}},
		{"tpm-shim-workstation.log", TPM(), pcrs(t, "tpm-shim-workstation.pcrs"), 27, nil},
	}
}

func TestRealLogs(t *testing.T) {
	for _, r := range reals(t) {
		t.Run(r.log, func(t *testing.T) {
			events, step := Check(read(t, r.log), r.bank, r.vouched)
			if !step.OK || step.Code != attest.CodeEventLog {
				t.Fatalf("got %+v, want it to hold", step)
			}
			if len(events) != r.events {
				t.Errorf("got %d events, want %d", len(events), r.events)
			}
			for _, want := range r.want {
				found := false
				for _, got := range events {
					got.Digest = nil
					found = found || got.Register == want.Register && got.Type == want.Type && got.Name == want.Name && got.Proven == want.Proven
				}
				if !found {
					t.Errorf("no event %+v", want)
				}
			}
		})
	}
}

// TestReplayEqualsOtherTool compares every register with tpm2_eventlog's.
func TestReplayEqualsOtherTool(t *testing.T) {
	for _, name := range []string{"gcp-tpm-ubuntu", "tpm-rhel8", "tpm-shim-workstation"} {
		entries, err := parse(read(t, name+".log"), algSHA256)
		if err != nil {
			t.Fatal(err)
		}
		values, err := TPM().replay(entries)
		if err != nil {
			t.Fatal(err)
		}
		want := pcrs(t, name+".pcrs")
		if len(values) != len(want) {
			t.Errorf("%s: got %d registers, want %d", name, len(values), len(want))
		}
		for index, got := range values {
			if register := TPM().registers[index]; !bytes.Equal(got, want[register]) {
				t.Errorf("%s: %s: got %x, want %s", name, register, got, want[register])
			}
		}
	}
}

// TestFirstRegisterThatDiffers changes one register at a time.
func TestFirstRegisterThatDiffers(t *testing.T) {
	raw := read(t, "gcp-tdx-cos.ccel")
	for _, register := range []string{"rtmr0", "rtmr1", "rtmr2"} {
		vouched := rtmrs(read(t, "gcp-tdx-cos.quote"))
		changed := bytes.Clone(vouched[register])
		changed[47] ^= 1
		vouched[register] = changed
		vouched["rtmr2"] = append(attest.Hex{}, vouched["rtmr2"][:47]...) // wrong as well
		events, step := Check(raw, TDX(), vouched)
		if step.OK || events != nil || !strings.HasPrefix(step.Got, register+" ") || !strings.HasPrefix(step.Want, register+" ") {
			t.Errorf("%s: got %+v with %d events, want it named", register, step, len(events))
		}
	}
}

// TestEveryDigestCounts flips a bit of each event's digest, drops each event and
// swaps neighbours: the log no longer replays.
func TestEveryDigestCounts(t *testing.T) {
	vouched := rtmrs(read(t, "gcp-tdx-cos.quote"))
	original, err := parse(read(t, "gcp-tdx-cos.ccel"), algSHA384)
	if err != nil {
		t.Fatal(err)
	}
	differs := func(entries []entry) bool {
		values, err := TDX().replay(entries)
		return err != nil || !bytes.Equal(values[1], vouched["rtmr0"]) || !bytes.Equal(values[2], vouched["rtmr1"]) || !bytes.Equal(values[3], vouched["rtmr2"])
	}
	if differs(original) {
		t.Fatal("the log does not replay")
	}
	for i, e := range original {
		if e.kind == evNoAction {
			continue
		}
		flipped := append([]entry{}, original...)
		flipped[i].digest = bytes.Clone(e.digest)
		flipped[i].digest[i%48] ^= 1
		dropped := append(append([]entry{}, original[:i]...), original[i+1:]...)
		moved := append([]entry{}, original...)
		moved[i].index = 1 + e.index%3
		for name, entries := range map[string][]entry{"flipped": flipped, "dropped": dropped, "moved": moved} {
			if !differs(entries) {
				t.Errorf("event %d %s: the log still replays", i, name)
			}
		}
	}
}

// TestForgedNamesAreNotProven rewrites what events say and leaves what they
// extended: the log replays, and no rewritten name is proven.
func TestForgedNamesAreNotProven(t *testing.T) {
	raw := bytes.Clone(read(t, "gcp-tdx-cos.ccel"))
	for _, swap := range [][2]string{{"set default=2", "set default=4"}, {"/syslinux/vmlinuz.A", "/syslinux/vmlinuz.X"}} {
		if !bytes.Contains(raw, []byte(swap[0])) {
			t.Fatalf("no %q in the log", swap[0])
		}
		raw = bytes.ReplaceAll(raw, []byte(swap[0]), []byte(swap[1]))
	}
	events, step := Check(raw, TDX(), rtmrs(read(t, "gcp-tdx-cos.quote")))
	if !step.OK {
		t.Fatalf("got %+v", step)
	}
	forged := 0
	for _, e := range events {
		if strings.Contains(e.Name, "set default=4") || strings.Contains(e.Name, "vmlinuz.X") {
			forged++
			if e.Proven {
				t.Errorf("proven: %+v", e)
			}
		}
	}
	if forged < 3 {
		t.Errorf("got %d forged names, want more", forged)
	}
}

func TestCuts(t *testing.T) {
	for _, r := range reals(t) {
		raw := read(t, r.log)
		for n := 0; n < len(raw); n += 1 + len(raw)/400 {
			Check(raw[:n], r.bank, r.vouched)
		}
	}
	big := append(read(t, "gcp-tdx-cos.ccel"), bytes.Repeat([]byte{0xff}, attest.MaxEventLog)...)
	if _, step := Check(big, TDX(), rtmrs(read(t, "gcp-tdx-cos.quote"))); step.OK || !strings.Contains(step.Got, "bytes") {
		t.Errorf("a log above the limit: got %+v", step)
	}
}

func FuzzCheck(f *testing.F) {
	for _, r := range reals(f) {
		f.Add(read(f, r.log))
	}
	f.Add(newLog().same(1, evSeparator, make([]byte, 4)).b)
	vouched := rtmrs(read(f, "gcp-tdx-cos.quote"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, b := range []Bank{TDX(), TPM()} {
			events, step := Check(raw, b, vouched)
			if !step.OK && events != nil {
				t.Error("events of a log that does not replay")
			}
			for _, alg := range []uint16{algSHA256, algSHA384} {
				entries, err := parse(raw, alg)
				for _, e := range entries {
					if name, _ := e.describe(bankHash(alg)); err == nil && len(name) > 2*attest.MaxEventLog {
						t.Errorf("a name of %d bytes", len(name))
					}
				}
			}
		}
	})
}

// TestReplay gives the registers that the evidence of the same boot has.
func TestReplay(t *testing.T) {
	for _, c := range reals(t) {
		values, events, err := Replay(read(t, c.log), c.bank)
		if err != nil || len(events) != c.events {
			t.Errorf("%s: got %d events, %v, want %d", c.log, len(events), err, c.events)
		}
		for name, got := range values {
			if want := c.vouched[name]; !bytes.Equal(got, want) {
				t.Errorf("%s: %s: got %s, want %s", c.log, name, got, want)
			}
		}
	}
	if _, _, err := Replay(nil, TDX()); err == nil {
		t.Error("no log: got no error")
	}
}
