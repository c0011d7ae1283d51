// Package services plays the vendors' services for endorsements over HTTP: a
// PCCS with the interface of Intel's provisioning certification service version
// 4, and AMD's key distribution service version 1. It serves documents that it
// is given, and by a script it answers late, wrongly, too much, or not at all.
//
// It signs nothing and believes nothing: the documents are somebody else's. It
// is for tests and for deployments on one machine, and refuses nobody.
package services

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/internal/pause"
)

// Fault is one thing that goes wrong. Of a script, the first fault that matches
// a request, and has times left, is applied.
type Fault struct {
	// Document is "tcbInfo", "qeIdentity", "pckCRL", "rootCRL", "vcek", "chain" or
	// "crl"; empty means each.
	Document string `json:"document,omitempty"`
	Times    int    `json:"times,omitempty"` // how often; 0: always

	Status     int             `json:"status,omitempty"`     // answered in place of the document: 404, 429, 500
	RetryAfter int             `json:"retryAfter,omitempty"` // seconds, with Status
	Delay      attest.Duration `json:"delay,omitempty"`      // before the answer
	Truncate   bool            `json:"truncate,omitempty"`   // half of the body, then the connection ends
	Huge       bool            `json:"huge,omitempty"`       // a body of 4 MiB
	Damage     bool            `json:"damage,omitempty"`     // one bit of the body flipped
	NoChain    bool            `json:"noChain,omitempty"`    // without the header of the issuer chain
	OldHeaders bool            `json:"oldHeaders,omitempty"` // chains under the names of earlier versions
	FormChains bool            `json:"formChains,omitempty"` // chains escaped as in a form
	UpperFMSPC bool            `json:"upperFMSPC,omitempty"` // an FMSPC in lower case is not known
	Encoding   string          `json:"encoding,omitempty"`   // of CRLs: "hex" or "pem" in place of DER
}

// Config says what is served.
type Config struct {
	// Sets returns the documents, in any number of sets. Of several issues of a
	// TCB info or an identity the first is served; with update=early the one
	// with the highest evaluation number, with tcbEvaluationDataNumber=N that one.
	Sets func() ([]attest.Endorsements, error)
	// Faults returns the script; nil: all goes well. A script that changes counts
	// its times from the beginning.
	Faults func() ([]Fault, error)
}

// Service is the handler. It is safe for concurrent use.
type Service struct {
	c   Config
	mux *http.ServeMux

	mu       sync.Mutex
	requests map[string]int // by document
	script   string         // the faults whose times were counted
	used     []int
}

// New returns a service.
func New(c Config) *Service {
	s := &Service{c: c, mux: http.NewServeMux(), requests: map[string]int{}}
	s.handle("GET /{tee}/certification/v4/tcb", "tcbInfo", func(r *http.Request) string {
		return "tcbInfo/" + r.PathValue("tee") + "/" + strings.ToLower(r.URL.Query().Get("fmspc"))
	})
	s.handle("GET /{tee}/certification/v4/qe/identity", "qeIdentity", func(r *http.Request) string { return "qeIdentity/" + r.PathValue("tee") })
	s.handle("GET /sgx/certification/v4/pckcrl", "pckCRL", func(r *http.Request) string { return "crl/pck/" + r.URL.Query().Get("ca") })
	s.handle("GET /sgx/certification/v4/rootcacrl", "rootCRL", func(*http.Request) string { return "crl/intel/root" })
	s.handle("GET /vcek/v1/{product}/{chip}", "vcek", vcek)
	for _, key := range []string{"vcek", "vlek"} {
		s.handle("GET /"+key+"/v1/{product}/cert_chain", "chain", func(r *http.Request) string { return "chain/amd/" + r.PathValue("product") })
		s.handle("GET /"+key+"/v1/{product}/crl", "crl", func(r *http.Request) string { return "crl/amd/" + r.PathValue("product") })
	}
	return s
}

// vcek is the identity of the certificate that is asked for.
func vcek(r *http.Request) string {
	q := r.URL.Query()
	level := func(name string) byte {
		n, _ := strconv.ParseUint(q.Get(name), 10, 8) // 0 for what is no number: no such certificate
		return byte(n)
	}
	chip := r.PathValue("chip")
	if (r.PathValue("product") == "Turin") != (len(chip) == 16) {
		return "" // the hardware ID has 8 bytes on Turin, 64 elsewhere
	}
	tcb := []byte{level("fmcSPL"), level("blSPL"), level("teeSPL"), level("snpSPL"), level("ucodeSPL")}
	return "vcek/" + chip + strings.Repeat("0", max(0, 128-len(chip))) + "/" + hex.EncodeToString(tcb)
}

// Requests returns how often a document was asked for; "" counts all.
func (s *Service) Requests(document string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if document != "" {
		return s.requests[document]
	}
	all := 0
	for _, n := range s.requests {
		all += n
	}
	return all
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Service) handle(pattern, document string, identity func(*http.Request) string) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		f, err := s.next(document)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if !pause.For(r.Context(), time.Duration(f.Delay)) {
			return
		}
		if f.Status != 0 {
			if f.RetryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
			}
			http.Error(w, "told to fail", f.Status)
			return
		}
		it, ok, err := s.find(identity(r), r.URL.Query())
		fmspc := r.URL.Query().Get("fmspc")
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		case !ok || f.UpperFMSPC && fmspc != strings.ToUpper(fmspc):
			http.NotFound(w, r)
		default:
			serve(w, f, it)
		}
	})
}

// next returns what goes wrong with the next answer; the zero Fault is nothing.
func (s *Service) next(document string) (Fault, error) {
	var faults []Fault
	if s.c.Faults != nil {
		var err error
		if faults, err = s.c.Faults(); err != nil {
			return Fault{}, err
		}
	}
	script, err := json.Marshal(faults)
	if err != nil {
		return Fault{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[document]++
	if s.script != string(script) {
		s.script, s.used = string(script), make([]int, len(faults))
	}
	for i, f := range faults {
		if (f.Document == "" || f.Document == document) && (f.Times == 0 || s.used[i] < f.Times) {
			s.used[i]++
			return f, nil
		}
	}
	return Fault{}, nil
}

// find returns the document of an identity, real or simulated.
func (s *Service) find(identity string, query url.Values) (attest.Endorsement, bool, error) {
	sets, err := s.c.Sets()
	if err != nil {
		return attest.Endorsement{}, false, err
	}
	var best attest.Endorsement
	var number uint64
	found := false
	for _, set := range sets {
		for _, d := range endorse.Describe(set) {
			if d.Error != "" || strings.TrimPrefix(d.Identity, "sim/") != identity {
				continue
			}
			if want := query.Get("tcbEvaluationDataNumber"); want != "" && want != strconv.FormatUint(d.Number, 10) {
				continue
			}
			if !found || query.Get("update") == "early" && d.Number > number {
				best, _ = set.Get(d.Kind)
				number, found = d.Number, true
			}
		}
	}
	return best, found, nil
}

// headers name the header of a document's issuer chain, then its earlier name.
var headers = map[string][2]string{
	attest.KindTCBInfo:    {"TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"},
	attest.KindQEIdentity: {"SGX-Enclave-Identity-Issuer-Chain", "SGX-QE-Identity-Issuer-Chain"},
	attest.KindPCKCRL:     {"SGX-PCK-CRL-Issuer-Chain", "SGX-PCK-CRL-Issuer-Chain"},
}

const hugeBody = 4 << 20

func serve(w http.ResponseWriter, f Fault, it attest.Endorsement) {
	if names, ok := headers[it.Kind]; ok && !f.NoChain {
		name := names[0]
		if f.OldHeaders {
			name = names[1]
		}
		escape := url.PathEscape
		if f.FormChains {
			escape = url.QueryEscape
		}
		w.Header().Set(name, escape(string(it.Chain)))
	}
	body := slices.Clone(it.Body)
	switch f.Encoding {
	case "hex":
		body = []byte(hex.EncodeToString(body))
	case "pem":
		body = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: body})
	}
	if f.Damage && len(body) > 0 {
		body[len(body)/2] ^= 1
	}
	if f.Huge {
		body = append(body, make([]byte, hugeBody)...)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if f.Truncate {
		body = body[:len(body)/2]
	}
	_, _ = w.Write(body) // the asker has gone
	if f.Truncate {
		panic(http.ErrAbortHandler)
	}
}
