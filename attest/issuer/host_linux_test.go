package issuer

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The real machine's side, on devices that every Linux has.
func TestHost(t *testing.T) {
	m := Host()
	f, err := m.Open("/dev/urandom", os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	entropy := int32(-1)
	if err := f.Ioctl(0x80045200, unsafe.Pointer(&entropy)); err != nil || entropy < 0 { // RNDGETENTCNT, random(4)
		t.Errorf("got %d, %v", entropy, err)
	}
	if err := f.Ioctl(snpGetReport, unsafe.Pointer(new(snpRequest))); !errors.Is(err, unix.EINVAL) {
		t.Errorf("foreign request: got %v, want EINVAL", err)
	}
	if _, err := m.Open("/dev/does-not-exist", os.O_RDWR); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want not exist", err)
	}
	if raw, err := m.readFile("/proc/self/status", 1<<20); err != nil || len(raw) == 0 {
		t.Errorf("pseudo-file: got %d bytes, %v", len(raw), err)
	}
	if _, err := m.readFile("/proc/self/status", 3); !errors.Is(err, errTooLarge) {
		t.Errorf("limit: got %v, want too large", err)
	}
}

// Structures have the sizes that the requests' numbers name.
func TestLayouts(t *testing.T) {
	size := func(request uintptr) uintptr { return request >> 16 & 0x3fff }
	for name, c := range map[string]struct{ got, want uintptr }{
		"snp_guest_request_ioctl":   {unsafe.Sizeof(snpRequest{}), size(snpGetReport)},
		"the same, of a key":        {unsafe.Sizeof(snpRequest{}), size(snpGetDerivedKey)},
		"its request":               {unsafe.Offsetof(snpRequest{}.request), 8},
		"its errors":                {unsafe.Offsetof(snpRequest{}.firmware), 24},
		"snp_report_req":            {unsafe.Sizeof(snpReportRequest{}), 96},
		"snp_derived_key_req":       {unsafe.Sizeof(snpKeyRequest{}), 32},
		"its field select":          {unsafe.Offsetof(snpKeyRequest{}.fields), 8},
		"its TCB":                   {unsafe.Offsetof(snpKeyRequest{}.tcb), 24},
		"tdx_report_req":            {unsafe.Sizeof(tdxReportRequest{}), size(tdxGetReport0)},
		"sgxioc_gen_dcap_quote_arg": {unsafe.Sizeof(occlumQuoteArg{}), size(occlumQuote)},
		"sgxioc_create_report_arg":  {unsafe.Sizeof(occlumReportArg{}), size(occlumCreateReport)},
		"sgxioc_get_key_arg":        {unsafe.Sizeof(occlumKeyArg{}), size(occlumGetKey)},
		"size of a quote":           {unsafe.Sizeof(uint32(0)), size(occlumQuoteSize)},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %d, want %d", name, c.got, c.want)
		}
	}
}
