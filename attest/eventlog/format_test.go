package eventlog

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
)

// TestFormat damages a built log field by field.
func TestFormat(t *testing.T) {
	const headerEnd = 32 + 37 // first event
	good := func() []byte { return newLog().same(1, evSeparator, make([]byte, 4)).b }
	put32 := func(at int, v uint32) []byte {
		b := good()
		le.PutUint32(b[at:], v)
		return b
	}
	put16 := func(at int, v uint16) []byte {
		b := good()
		le.PutUint16(b[at:], v)
		return b
	}
	if entries, err := parse(good(), algSHA384); err != nil || len(entries) != 1 {
		t.Fatalf("got %v, %v", entries, err)
	}
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"empty":                  {nil, "a log has"},
		"other first event":      {put32(4, evSeparator), "not crypto agile"},
		"old specification":      {bytes.Replace(good(), []byte("Event03"), []byte("Event02"), 1), "not crypto agile"},
		"first event too long":   {put32(28, 1<<31), errTruncated.Error()},
		"no algorithm":           {put32(32+24, 0), "algorithms"},
		"too many algorithms":    {put32(32+24, 17), "algorithms"},
		"algorithm twice":        {put16(32+32, algSHA256), "repeated"},
		"wrong size":             {put16(32+30, 20), "no such size"},
		"no digest":              {put32(headerEnd+8, 0), "digests"},
		"too many digests":       {put32(headerEnd+8, 3), "digests"},
		"digest of no algorithm": {put16(headerEnd+12, 4), "not of this log"},
		"digest twice":           {put16(headerEnd+12+34, algSHA256), "repeated"},
		"data too long":          {put32(headerEnd+12+34+50, 5), errTruncated.Error()},
		"data huge":              {put32(headerEnd+12+34+50, 0xffffffff), errTruncated.Error()},
		"trailing byte":          {append(good(), 1), errTruncated.Error()},
		"mixed padding":          {append(good(), 0, 0xff), errTruncated.Error()},
	} {
		if _, err := parse(c.raw, algSHA384); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	for name, pad := range map[string]byte{"zeros": 0, "ones": 0xff} {
		if entries, err := parse(append(good(), bytes.Repeat([]byte{pad}, 1000)...), algSHA384); err != nil || len(entries) != 1 {
			t.Errorf("padding of %s: got %v, %v", name, entries, err)
		}
	}
	if _, err := parse(good(), 0x0012); err == nil {
		t.Error("a bank that the log does not have: got no error")
	}
}

// TestRegisters checks which index is which register, and what is left out.
func TestRegisters(t *testing.T) {
	a, b := []byte("a"), []byte("b")
	log := newLog().same(0, 5, a).same(1, 5, a).same(4, 5, a).same(4, 5, b).b
	zero := make([]byte, 48)
	vouched := map[string]attest.Hex{"rtmr0": extend(zero, a), "rtmr1": zero, "rtmr3": extend(zero, a, b)}
	events, step := Check(log, TDX(), vouched)
	if !step.OK || step.Got != "explains rtmr0, rtmr3" || len(events) != 3 || events[0].Register != "rtmr0" || events[2].Register != "rtmr3" {
		t.Errorf("got %+v, %+v", step, events)
	}
	if _, step := Check(newLog().same(5, 5, a).b, TDX(), vouched); step.OK || !strings.Contains(step.Got, "register 5") {
		t.Errorf("index 5: got %+v", step)
	}
	if _, step := Check(newLog().same(3, 5, a).b, TDX(), vouched); step.OK || !strings.Contains(step.Got, "no event") {
		t.Errorf("a register that nobody vouches for: got %+v", step)
	}
	if _, step := Check(newLog().b, TDX(), vouched); step.OK {
		t.Errorf("no events: got %+v", step)
	}
}

// TestStartupLocality checks that PCR 0 starts at the locality.
func TestStartupLocality(t *testing.T) {
	a := []byte("a")
	start := make([]byte, 32)
	start[31] = 3
	zero := make([]byte, 32)
	locality := append([]byte("StartupLocality\x00"), 3)
	for name, c := range map[string]struct {
		log  []byte
		want []byte
	}{
		"before":         {newLog().same(0, evNoAction, locality).same(0, 5, a).b, extend(start, a)},
		"none":           {newLog().same(0, 5, a).b, extend(zero, a)},
		"after an event": {newLog().same(0, 5, a).same(0, evNoAction, locality).b, extend(zero, a)},
		"of PCR 1":       {newLog().same(1, evNoAction, locality).same(0, 5, a).b, extend(zero, a)},
	} {
		if _, step := Check(c.log, TPM(), map[string]attest.Hex{"pcr0": c.want}); !step.OK {
			t.Errorf("%s: got %+v", name, step)
		}
	}
}

func TestNames(t *testing.T) {
	disk := append(append([]byte{9, 0, 0, 0}, make([]byte, 32)...), 2, 2)
	path := append(pathNode(2, 1, append(le.AppendUint32(nil, pcieRoot), 0, 0, 0, 0)), pathNode(1, 1, []byte{0, 3})...)
	path = append(path, pathNode(4, 1, disk)...)
	path = append(append(path, pathNode(4, 4, utf16le("\\EFI\\Linux\\a.efi\x00"))...), pathNode(0x7f, 0xff, nil)...)
	options := utf16le("console=ttyS0 ro\x00")
	for name, c := range map[string]struct {
		kind           uint32
		measured, data []byte // measured nil: the data
		want           string
		proven         bool
	}{
		"variable":               {evVariableConfig, nil, variableData("SecureBoot", []byte{1}), "SecureBoot-00000000-0000-0000-0000-000000000000 = 01", true},
		"variable, content only": {evVariableBoot, []byte("x"), variableData("Boot0001", []byte("xy")), "Boot0001-00000000-0000-0000-0000-000000000000", false},
		"variable, damaged":      {evVariableConfig, nil, variableData("SecureBoot", []byte{1})[:40], "", false},
		"image":                  {evBootApplication, []byte("PE"), loadEvent(path), `PciRoot(0)/Pci(3,0)/HD(9,GPT,00000000-0000-0000-0000-000000000000)/\EFI\Linux\a.efi`, false},
		"image, no path":         {evBootApplication, []byte("PE"), loadEvent(nil), "", false},
		"image, path too long":   {evBootApplication, []byte("PE"), loadEvent([]byte{4, 4, 3, 0}), "", false},
		"separator":              {evSeparator, nil, make([]byte, 4), "separator", true},
		"separator, error":       {evSeparator, nil, []byte{1, 0, 0, 0}, "separator after an error", true},
		"separator, forged":      {evSeparator, []byte("x"), make([]byte, 4), "separator", false},
		"action":                 {0x80000007, nil, []byte("Exit Boot Services Invocation"), "Exit Boot Services Invocation", true},
		"grub command":           {evIPL, []byte("linux /vmlinuz"), []byte("grub_cmd: linux /vmlinuz\x00"), "grub_cmd: linux /vmlinuz", true},
		"grub command line":      {evIPL, []byte("/vmlinuz ro"), []byte("kernel_cmdline: /vmlinuz ro"), "kernel_cmdline: /vmlinuz ro", true},
		"grub file":              {evIPL, []byte("ELF"), []byte("(hd0,gpt1)/vmlinuz\x00"), "(hd0,gpt1)/vmlinuz", false},
		"PE section's name":      {evIPL, []byte(".linux\x00"), utf16le(".linux\x00"), ".linux", true},
		"PE section":             {evIPL, []byte("MZ"), utf16le(".linux\x00"), ".linux", false},
		"stub command line":      {evIPL, options, options, "console=ttyS0 ro", true},
		"tag":                    {evEventTag, []byte("initrd"), append(le.AppendUint32(le.AppendUint32(nil, 0x8f3b22ec), 13), "Linux initrd\x00"...), "tag 0x8f3b22ec: Linux initrd", false},
		"tag without text":       {evEventTag, []byte("x"), append(le.AppendUint32(le.AppendUint32(nil, 1), 1), 7), "tag 0x00000001", false},
		"firmware":               {evFirmwareBlob, []byte("FV"), le.AppendUint64(le.AppendUint64(nil, 0xffc00000), 4096), "at 0xffc00000, 4096 bytes", false},
		"binary":                 {0x07, nil, []byte{1, 2, 3}, "", false},
		"unknown type":           {0x80000042, nil, []byte("text"), "text", true},
	} {
		if c.measured == nil {
			c.measured = c.data
		}
		entries, err := parse(newLog().event(4, c.kind, c.measured, c.data).b, algSHA256)
		if err != nil {
			t.Fatal(err)
		}
		if got, proven := entries[0].describe(bankHash(algSHA256)); got != c.want || proven != c.proven {
			t.Errorf("%s: got %q, %t, want %q, %t", name, got, proven, c.want, c.proven)
		}
	}
	if got := typeName(0x80000042); got != "0x80000042" {
		t.Errorf("type: got %s", got)
	}
}
