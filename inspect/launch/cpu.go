package launch

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// VMM is the program that launches the guest: it sets the first state of the
// processors, which is measured.
type VMM string

// The VMMs.
const (
	QEMU VMM = "qemu" // with KVM
	EC2  VMM = "ec2"  // AWS
	GCE  VMM = "gce"  // Google Compute Engine
)

// VMMs lists them.
var VMMs = []string{string(QEMU), string(EC2), string(GCE)}

// signature is what CPUID 1 returns in EAX (AMD 25481, Fn0000_0001).
func signature(family, model, stepping uint32) uint32 {
	low, high := family, uint32(0)
	if family > 15 {
		low, high = 15, family-15
	}
	return high<<20 | model>>4<<16 | low<<8 | model&15<<4 | stepping
}

// cpus are the processor types of QEMU that can run SEV-SNP guests. Versions of
// a type ("EPYC-Milan-v2") have its signature.
var cpus = map[string]uint32{
	"EPYC":       signature(23, 1, 2),
	"EPYC-Rome":  signature(23, 49, 0),
	"EPYC-Milan": signature(25, 1, 1),
	"EPYC-Genoa": signature(25, 17, 0),
	"EPYC-Turin": signature(26, 0, 0),
}

// CPUSignature returns the signature of a processor type: a name that QEMU
// knows, with or without its version ("EPYC-v4", "EPYC-Milan"), or
// "FAMILY/MODEL/STEPPING" in decimal.
func CPUSignature(name string) (uint32, error) {
	if parts := strings.Split(name, "/"); len(parts) == 3 {
		var n [3]uint32
		for i, limit := range [3]uint64{15 + 255, 255, 15} {
			x, err := strconv.ParseUint(parts[i], 10, 32)
			if err != nil || x > limit {
				return 0, fmt.Errorf("%q is no FAMILY/MODEL/STEPPING", name)
			}
			n[i] = uint32(x)
		}
		return signature(n[0], n[1], n[2]), nil
	}
	base := name
	if i := strings.LastIndex(name, "-v"); i > 0 {
		if _, err := strconv.ParseUint(name[i+2:], 10, 8); err == nil {
			base = name[:i]
		}
	}
	if name == "EPYC-IBPB" {
		base = "EPYC"
	}
	if sig, ok := cpus[base]; ok {
		return sig, nil
	}
	return 0, fmt.Errorf("%q is no known processor type: want %s, or FAMILY/MODEL/STEPPING", name, strings.Join(CPUs(), ", "))
}

// CPUs lists the processor types, sorted.
func CPUs() []string { return slices.Sorted(maps.Keys(cpus)) }

// bootIP is where the first processor starts.
const bootIP = 0xFFFFFFF0

// vmsa returns the state in which a processor starts at ip, the page that is
// measured (AMD 24593, table B-4, with the values of each VMM).
func vmsa(o SNPOptions, ip uint32) [pageSize]byte {
	var s [pageSize]byte
	le := binary.LittleEndian
	segment := func(at int, selector, attributes uint16, limit uint32, base uint64) {
		le.PutUint16(s[at:], selector)
		le.PutUint16(s[at+2:], attributes)
		le.PutUint32(s[at+4:], limit)
		le.PutUint64(s[at+8:], base)
	}
	code, stack, task := uint16(0x9b), uint16(0x93), uint16(0x8b)
	pat, edx, mxcsr, fcw := uint64(0x0007040600070406), uint64(o.CPU), uint32(0x1f80), uint16(0x37f)
	switch o.VMM {
	case EC2:
		stack, task, edx, mxcsr, fcw = 0x92, 0x83, 0x600, 0, 0
		if ip == bootIP {
			code = 0x9a
		}
	case GCE:
		pat, edx, mxcsr, fcw = 0x00070106, 0x600, 0, 0
	}
	const limit = 0xffff
	segment(0x00, 0, 0x93, limit, 0)                              // ES
	segment(0x10, 0xf000, code, limit, uint64(ip)&^uint64(limit)) // CS
	segment(0x20, 0, stack, limit, 0)                             // SS
	for _, at := range []int{0x30, 0x40, 0x50} {                  // DS, FS, GS
		segment(at, 0, 0x93, limit, 0)
	}
	segment(0x60, 0, 0, limit, 0)    // GDTR
	segment(0x70, 0, 0x82, limit, 0) // LDTR
	segment(0x80, 0, 0, limit, 0)    // IDTR
	segment(0x90, 0, task, limit, 0) // TR
	for at, value := range map[int]uint64{
		0x0d0: 0x1000,             // EFER: SVME
		0x148: 0x40,               // CR4: MCE
		0x158: 0x10,               // CR0: ET
		0x160: 0x400,              // DR7
		0x168: 0xffff0ff0,         // DR6
		0x170: 2,                  // RFLAGS
		0x178: uint64(ip) & limit, // RIP
		0x268: pat,                // G_PAT
		0x310: edx,                // RDX: signature of the processor
		0x3b0: o.GuestFeatures,    // SEV_FEATURES
		0x3e8: 1,                  // XCR0: x87
	} {
		le.PutUint64(s[at:], value)
	}
	le.PutUint32(s[0x408:], mxcsr)
	le.PutUint16(s[0x410:], fcw)
	return s
}
