package issuer_test

import (
	"bytes"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/attest/issuer/issuertest"
)

func TestEventLog(t *testing.T) {
	log := append(bytes.Repeat([]byte("event"), 100), 0xff, 0xff) // an event that ends in the filler
	area := func(fill byte, size int) []byte { return append(bytes.Clone(log), bytes.Repeat([]byte{fill}, size)...) }
	const header, data = "/sys/firmware/acpi/tables/CCEL", "/sys/firmware/acpi/tables/data/CCEL"
	ccel := append([]byte("CCEL"), make([]byte, 52)...)
	for name, c := range map[string]struct {
		header, data []byte
		want         []byte
	}{
		"none":              {nil, nil, nil},
		"without header":    {nil, log, nil},
		"of another table":  {[]byte("APIC"), log, nil},
		"short header":      {[]byte("CC"), log, nil},
		"without data":      {ccel, nil, nil},
		"empty":             {ccel, []byte{}, nil},
		"full":              {ccel, log, log},
		"ones":              {ccel, area(0xff, 60000), area(0xff, 4<<10-2)},
		"zeros":             {ccel, area(0, 60000), area(0, 4<<10)},
		"short rest":        {ccel, area(0xff, 100), area(0xff, 100)},
		"large area":        {ccel, area(0xff, 3<<20), area(0xff, 4<<10-2)},
		"too large an area": {ccel, area(0xff, 4<<20), nil},
		"too large":         {ccel, bytes.Repeat([]byte{1}, attest.MaxEventLog+1), nil},
		"as large as may":   {ccel, bytes.Repeat([]byte{1}, attest.MaxEventLog), bytes.Repeat([]byte{1}, attest.MaxEventLog)},
	} {
		t.Run(name, func(t *testing.T) {
			g := &issuertest.TDX{}
			fs := files{"/dev/tdx_guest": g.Open}
			for path, content := range map[string][]byte{header: c.header, data: c.data} {
				if content != nil {
					fs[path] = issuertest.Content(content)
				}
			}
			computer := &issuertest.Computer{Files: fs, Service: g.Service}
			i, err := issuer.Open(t.Context(), computer.Machine(), attest.TDX)
			if err != nil {
				t.Fatal(err)
			}
			e, err := i.Issue(t.Context(), attest.Bind(nil))
			if err != nil || !bytes.Equal(e.EventLog, c.want) {
				t.Errorf("got a log of %d bytes, %v, want %d", len(e.EventLog), err, len(c.want))
			}
		})
	}
}
