package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/manifest"
)

func TestVerifySaysWhoMayHoldTheState(t *testing.T) {
	parse := func(raw string) *manifest.Manifest {
		m, ds := manifest.Parse([]byte(raw))
		if err := ds.Err(); err != nil {
			t.Fatal(err)
		}
		return m
	}
	const front = `{"version": 1, "trustDomain": "shop.example", "marbles": {"web": {"package": "web"}},
		"packages": {"web": {"sgx": {"uniqueID": ["1111111111111111111111111111111111111111111111111111111111111111"]}},
			"coordinator": {"sgx": {"signerID": "2222222222222222222222222222222222222222222222222222222222222222", "productID": 7, "minSecurityVersion": 2}`
	cases := map[string]struct {
		e    established
		want []string // lines, in order; none: nothing is said
	}{
		"no manifest": {established{}, nil},
		"nobody":      {established{inForce: parse(front + `}}}`)}, nil},
		"a package": {established{inForce: parse(front + `}}, "coordinators": {"package": "coordinator"}}`)},
			[]string{"what meets package coordinator on platform default may hold", "state too, and gets every key",
				"sgx.minSecurityVersion  2", "sgx.productID           7", "sgx.signerID            2222"}},
		"debug": {established{inForce: parse(front + `, "allowDebug": true}}, "coordinators": {"package": "coordinator"}}`)},
			[]string{"gets every key", "sgx.signerID", "debug enclaves and guests too: their hosts can read every key"}},
		"not read": {established{unread: errors.New("CRD-107: other bytes")}, []string{"not known, the manifest cannot be read: CRD-107: other bytes"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			a := &app{p: &term.Printer{Out: &out, Err: &out, Now: time.Now}}
			a.coordinatorLines(c.e)
			rest := out.String()
			if len(c.want) == 0 && rest != "" {
				t.Errorf("got %q, want nothing", rest)
			}
			for _, line := range c.want {
				_, after, found := strings.Cut(rest, line)
				if !found {
					t.Fatalf("got\n%s\nwant %q in it, in this order", out.String(), line)
				}
				rest = after
			}
			if d := (&app{}).documentOf(c.e); (d.Coordinators == nil) != (c.e.inForce == nil || c.e.inForce.Coordinators == nil) {
				t.Errorf("got %+v in the document, want what the manifest says", d.Coordinators)
			}
		})
	}
}
