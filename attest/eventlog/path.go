package eventlog

import (
	"fmt"
	"strings"
)

// Types and sub-types of the device path nodes that have a name of their own
// (UEFI Specification, section 10.3).
const (
	pathHardware  = 0x01
	pathACPI      = 0x02
	pathMedia     = 0x04
	pathEnd       = 0x7f
	nodePCI       = pathHardware<<8 | 0x01
	nodeACPI      = pathACPI<<8 | 0x01
	nodeDisk      = pathMedia<<8 | 0x01
	nodeFile      = pathMedia<<8 | 0x04
	nodeFirmware  = pathMedia<<8 | 0x06
	nodeVolume    = pathMedia<<8 | 0x07
	diskGUID      = 2  // signature type of a GPT partition
	maxPathNodes  = 64 // of one device path
	pciRoot       = 0x0a0341d0
	pcieRoot      = 0x0a0841d0
	nodeHeaderLen = 4
)

// image names the device path of a UEFI_IMAGE_LOAD_EVENT.
func image(data []byte) string {
	r := &reader{b: data}
	r.take(loadEventHeader - 8)
	size := r.u64()
	if r.err != nil || size > uint64(len(r.b)) {
		return ""
	}
	return devicePath(r.take(uint32(size)))
}

// devicePath writes a binary device path as text, nodes apart by slashes:
// "PciRoot(0)/Pci(3,0)/HD(1,GPT,6b4d…)/\EFI\BOOT\BOOTX64.EFI". It is "" for a
// path that is empty or damaged.
func devicePath(data []byte) string {
	var nodes []string
	r := &reader{b: data}
	for len(r.b) > 0 && len(nodes) < maxPathNodes {
		kind, sub, size := r.u8(), r.u8(), r.u16()
		if r.err == nil && size < nodeHeaderLen {
			return ""
		}
		body := r.take(uint32(size) - nodeHeaderLen)
		if r.err != nil {
			return ""
		}
		if kind == pathEnd {
			break
		}
		nodes = append(nodes, node(uint16(kind)<<8|uint16(sub), body))
	}
	return printable(strings.Join(nodes, "/"))
}

func node(kind uint16, body []byte) string {
	r := &reader{b: body}
	var name string
	switch kind {
	case nodePCI:
		function, device := r.u8(), r.u8()
		name = fmt.Sprintf("Pci(%d,%d)", device, function)
	case nodeACPI:
		hid, uid := r.u32(), r.u32()
		name = fmt.Sprintf("Acpi(%#08x,%d)", hid, uid)
		if hid == pciRoot || hid == pcieRoot {
			name = fmt.Sprintf("PciRoot(%d)", uid)
		}
	case nodeDisk:
		number := r.u32()
		r.take(16) // start and size
		signature := r.take(16)
		r.u8() // MBR or GPT
		name = fmt.Sprintf("HD(%d)", number)
		if r.u8() == diskGUID {
			name = fmt.Sprintf("HD(%d,GPT,%s)", number, guid(signature))
		}
	case nodeFile:
		return strings.TrimRight(narrow(body), "\x00")
	case nodeFirmware:
		name = "FvFile(" + guid(r.take(16)) + ")"
	case nodeVolume:
		name = "Fv(" + guid(r.take(16)) + ")"
	}
	if name == "" || r.err != nil {
		return fmt.Sprintf("Path(%d,%d)", kind>>8, kind&0xff)
	}
	return name
}
