package services_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/sim/services"
)

const turin = "/vcek/v1/Turin/59790fb1c39f35c1?blSPL=1&teeSPL=1&snpSPL=4&ucodeSPL=81&fmcSPL=1"

// TestAddresses answers under the vendors' own, with what was captured.
func TestAddresses(t *testing.T) {
	tdx, amd := attesttest.Load(t, "tdx/phala-v4-b0c0").Endorsements, attesttest.Load(t, "snp/msft-turin-v5-vcek").Endorsements
	v := attesttest.NewVendors(t, tdx, amd)
	for path, kind := range map[string]string{
		"/tdx/certification/v4/tcb?fmspc=B0C06F000000": attest.KindTCBInfo, "/tdx/certification/v4/tcb?fmspc=b0c06f000000&update=early": attest.KindTCBInfo,
		"/tdx/certification/v4/tcb?fmspc=b0c06f000000&tcbEvaluationDataNumber=17": attest.KindTCBInfo,
		"/tdx/certification/v4/tcb?fmspc=b0c06f000000&tcbEvaluationDataNumber=18": "",
		"/sgx/certification/v4/tcb?fmspc=b0c06f000000":                            "", "/tdx/certification/v4/tcb?fmspc=00906ea10000": "",
		"/tdx/certification/v4/qe/identity": attest.KindQEIdentity, "/sgx/certification/v4/qe/identity": "",
		"/sgx/certification/v4/pckcrl?ca=platform&encoding=der": attest.KindPCKCRL, "/sgx/certification/v4/pckcrl?ca=processor": "",
		"/sgx/certification/v4/rootcacrl": attest.KindRootCRL,
		turin:                             attest.KindVCEK, strings.Replace(turin, "ucodeSPL=81", "ucodeSPL=80", 1): "", strings.Replace(turin, "Turin", "Milan", 1): "",
		"/vcek/v1/Turin/cert_chain": attest.KindAMDChain, "/vcek/v1/Milan/cert_chain": "", "/vcek/v1/Turin/crl": "",
	} {
		r, err := http.Get(v.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		it, ok := tdx.Get(kind)
		if !ok {
			it, ok = amd.Get(kind)
		}
		switch {
		case kind == "" && r.StatusCode != http.StatusNotFound:
			t.Errorf("%s: got %s, want 404", path, r.Status)
		case kind != "" && (!ok || string(body) != string(it.Body)):
			t.Errorf("%s: got %s and %d bytes, want %s", path, r.Status, len(body), kind)
		}
		for _, name := range []string{"TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain", "SGX-PCK-CRL-Issuer-Chain"} {
			if chain, err := url.PathUnescape(r.Header.Get(name)); err != nil || chain != "" && chain != string(it.Chain) {
				t.Errorf("%s: header %s is not the chain: %v", path, name, err)
			}
		}
	}
}

// TestScript applies each fault as often as it says, the first that matches, and
// counts anew when the script changes.
func TestScript(t *testing.T) {
	v := attesttest.NewVendors(t, attesttest.Load(t, "tdx/phala-v4-b0c0").Endorsements)
	got := func(path string) int {
		w := httptest.NewRecorder()
		v.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code
	}
	const tcb, root = "/tdx/certification/v4/tcb?fmspc=b0c06f000000", "/sgx/certification/v4/rootcacrl"
	script := []services.Fault{{Document: "tcbInfo", Times: 2, Status: 429, RetryAfter: 1}, {Times: 1, Status: 500}}
	for range 2 {
		v.Script(script...)
		for i, want := range []int{429, 429, 500, 200, 200} {
			if c := got(tcb); c != want {
				t.Errorf("request %d: got %d, want %d", i+1, c, want)
			}
		}
		if c := got(root); c != 200 {
			t.Errorf("another document: got %d, want 200, the fault was used", c)
		}
		v.Script()
		got(tcb)
	}
	if v.Requests("tcbInfo") != 12 || v.Requests("rootCRL") != 2 || v.Requests("") != 14 {
		t.Errorf("got %d, %d and %d requests, want 12, 2 and 14", v.Requests("tcbInfo"), v.Requests("rootCRL"), v.Requests(""))
	}
}
