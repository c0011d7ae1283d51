package eventlog

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Event types (TCG PC Client Platform Firmware Profile, section 10.4.1) whose
// content is read here.
const (
	evNoAction           = 0x00000003
	evSeparator          = 0x00000004
	evAction             = 0x00000005
	evEventTag           = 0x00000006
	evIPL                = 0x0000000D
	evVariableConfig     = 0x80000001
	evVariableBoot       = 0x80000002
	evBootApplication    = 0x80000003
	evBootDriver         = 0x80000004
	evRuntimeDriver      = 0x80000005
	evGPT                = 0x80000006
	evFirmwareBlob       = 0x80000008
	evFirmwareBlob2      = 0x8000000A
	evHandoffTables2     = 0x8000000B
	evVariableBoot2      = 0x8000000C
	evGPT2               = 0x8000000D
	evVariableAuthority  = 0x800000E0
	maxName              = 4 << 10 // bytes of a name; a kernel's command line is shorter
	gptHeaderSize        = 92
	gptDiskGUID          = 56 // in the header
	loadEventHeader      = 32 // of UEFI_IMAGE_LOAD_EVENT
	unicodeNul           = "\x00\x00"
	maxVariableNameChars = 1 << 10
)

var typeNames = map[uint32]string{
	0x00: "EV_PREBOOT_CERT", 0x01: "EV_POST_CODE", 0x02: "EV_UNUSED", evNoAction: "EV_NO_ACTION", evSeparator: "EV_SEPARATOR",
	evAction: "EV_ACTION", evEventTag: "EV_EVENT_TAG", 0x07: "EV_S_CRTM_CONTENTS", 0x08: "EV_S_CRTM_VERSION", 0x09: "EV_CPU_MICROCODE",
	0x0A: "EV_PLATFORM_CONFIG_FLAGS", 0x0B: "EV_TABLE_OF_DEVICES", 0x0C: "EV_COMPACT_HASH", evIPL: "EV_IPL", 0x0E: "EV_IPL_PARTITION_DATA",
	0x0F: "EV_NONHOST_CODE", 0x10: "EV_NONHOST_CONFIG", 0x11: "EV_NONHOST_INFO", 0x12: "EV_OMIT_BOOT_DEVICE_EVENTS", 0x13: "EV_POST_CODE2",
	evVariableConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG", evVariableBoot: "EV_EFI_VARIABLE_BOOT", evBootApplication: "EV_EFI_BOOT_SERVICES_APPLICATION",
	evBootDriver: "EV_EFI_BOOT_SERVICES_DRIVER", evRuntimeDriver: "EV_EFI_RUNTIME_SERVICES_DRIVER", evGPT: "EV_EFI_GPT_EVENT",
	0x80000007: "EV_EFI_ACTION", evFirmwareBlob: "EV_EFI_PLATFORM_FIRMWARE_BLOB", 0x80000009: "EV_EFI_HANDOFF_TABLES",
	evFirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2", evHandoffTables2: "EV_EFI_HANDOFF_TABLES2", evVariableBoot2: "EV_EFI_VARIABLE_BOOT2",
	evGPT2: "EV_EFI_GPT_EVENT2", 0x80000010: "EV_EFI_HCRTM_EVENT", evVariableAuthority: "EV_EFI_VARIABLE_AUTHORITY",
	0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB", 0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG", 0x800000E3: "EV_EFI_SPDM_DEVICE_POLICY",
	0x800000E4: "EV_EFI_SPDM_DEVICE_AUTHORITY",
}

// typeName returns the TCG name of an event type, or its number: "0x80000042".
func typeName(kind uint32) string {
	if name, ok := typeNames[kind]; ok {
		return name
	}
	return fmt.Sprintf("%#08x", kind)
}

// describe names what an event measured and reports whether the digest is that
// of what the name shows. The name is "" where the event says nothing readable.
func (e entry) describe(h crypto.Hash) (name string, proven bool) {
	is := func(content []byte) bool {
		d := h.New()
		d.Write(content)
		return bytes.Equal(d.Sum(nil), e.digest)
	}
	switch e.kind {
	case evVariableConfig, evVariableBoot, evVariableBoot2, evVariableAuthority:
		name, proven = variable(e.data), is(e.data)
	case evBootApplication, evBootDriver, evRuntimeDriver:
		name = image(e.data) // the digest is the image's
	case evGPT, evGPT2:
		name, proven = partitions(e.data), is(e.data)
	case evFirmwareBlob, evFirmwareBlob2, evHandoffTables2:
		name = blob(e.kind, e.data) // the digest is the blob's
	case evSeparator:
		name, proven = separator(e.data), is(e.data)
	case evEventTag:
		name = tag(e.data) // the digest is that of what the tag stands for
	case evIPL:
		return boot(e.data, is)
	default:
		name, proven = text(e.data), is(e.data)
	}
	return name, proven && name != ""
}

// bootPrefixes stand before a string that GRUB measured alone.
var bootPrefixes = []string{"grub_cmd: ", "kernel_cmdline: ", "module_cmdline: "}

// boot names an EV_IPL event: GRUB's commands and files, names of PE sections
// and command lines of systemd-stub, variables of shim. What was measured is the
// text with or without its prefix and its final zero, or the file that it names.
func boot(data []byte, is func([]byte) bool) (string, bool) {
	name := text(data)
	if name == "" {
		return "", false
	}
	content := name
	for _, p := range bootPrefixes {
		content = strings.TrimPrefix(content, p)
	}
	for _, measured := range [][]byte{data, []byte(content), []byte(content + "\x00"), wide(content), append(wide(content), 0, 0)} {
		if is(measured) {
			return name, true
		}
	}
	return name, false
}

func wide(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// text reads printable UTF-8 or UTF-16LE with or without a final zero; "" is
// anything else.
func text(data []byte) string {
	if len(data) > 2*maxName {
		return ""
	}
	if s := printable(strings.TrimSuffix(string(data), "\x00")); s != "" {
		return s
	}
	if len(data)%2 != 0 {
		return ""
	}
	return printable(strings.TrimSuffix(narrow(data), "\x00"))
}

// narrow decodes UTF-16LE; half a character at the end is left out.
func narrow(data []byte) string {
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(data[2*i:])
	}
	return string(utf16.Decode(units))
}

// printable returns s if a person can read all of it, else "".
func printable(s string) string {
	if len(s) > maxName || !utf8.ValidString(s) {
		return ""
	}
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) && r != '\n' && r != '\t' {
			return ""
		}
	}
	return s
}

func separator(data []byte) string {
	switch {
	case bytes.Equal(data, []byte{0, 0, 0, 0}) || bytes.Equal(data, []byte{0xff, 0xff, 0xff, 0xff}):
		return "separator"
	case bytes.Equal(data, []byte{1, 0, 0, 0}):
		return "separator after an error"
	}
	return text(data)
}

// variable names a UEFI_VARIABLE_DATA as Linux does, "SecureBoot-8be4df61-…",
// and shows content of one byte: " = 01".
func variable(data []byte) string {
	r := &reader{b: data}
	guid := guid(r.take(16))
	chars, size := r.u64(), r.u64()
	if r.err != nil || chars > maxVariableNameChars {
		return ""
	}
	name, content := narrow(r.take(uint32(chars)*2)), r.b
	if r.err != nil || size != uint64(len(content)) || printable(name) == "" {
		return ""
	}
	if name += "-" + guid; len(content) == 1 {
		name += fmt.Sprintf(" = %02x", content[0])
	}
	return name
}

// partitions names a UEFI_GPT_DATA by its disk.
func partitions(data []byte) string {
	if len(data) < gptHeaderSize {
		return ""
	}
	return "partition table of disk " + guid(data[gptDiskGUID:gptDiskGUID+16])
}

// blob names firmware by its description and place.
func blob(kind uint32, data []byte) string {
	r := &reader{b: data}
	description := ""
	if kind != evFirmwareBlob {
		description = text(r.take(uint32(r.u8()))) + " "
	}
	if kind == evHandoffTables2 {
		return strings.TrimSpace(description)
	}
	base, size := r.u64(), r.u64()
	if r.err != nil {
		return ""
	}
	return fmt.Sprintf("%sat %#x, %d bytes", description, base, size)
}

// tag names a TCG_PCClientTaggedEvent.
func tag(data []byte) string {
	r := &reader{b: data}
	id := r.u32()
	content := r.take(r.u32())
	if r.err != nil {
		return ""
	}
	return strings.TrimSuffix(fmt.Sprintf("tag %#08x: %s", id, text(content)), ": ")
}

// guid writes an EFI_GUID, whose first three fields are little endian.
func guid(b []byte) string {
	if len(b) != 16 {
		return ""
	}
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:])
}
