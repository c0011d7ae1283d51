package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"sort"
)

// Kinds of endorsement. Names double as file names in a folder of evidence.
const (
	KindTCBInfo    = "tcb_info.json"    // Intel TCB info v3, body as served, chain = issuer chain PEM
	KindQEIdentity = "qe_identity.json" // Intel QE identity v2, body as served, chain = issuer chain PEM
	KindPCKCRL     = "pck_crl.der"      // CRL of the PCK CA, DER, chain = issuer chain PEM
	KindRootCRL    = "root_ca_crl.der"  // CRL of the Intel SGX root CA, DER
	KindVCEK       = "vcek.der"         // AMD's certificate of a chip's key (VCEK), DER
	KindVLEK       = "vlek.der"         // AMD's certificate of a provider's key (VLEK), DER
	KindAMDChain   = "cert_chain.pem"   // AMD's ASK or ASVK, then the ARK, PEM as served; optional
	KindAMDCRL     = "crl.der"          // CRL of the product's ARK, DER as served
)

// Endorsement is one document of a vendor, with the PEM chain of its signer
// where the vendor delivers that beside it.
type Endorsement struct {
	Kind  string `json:"kind"`
	Body  []byte `json:"body"`
	Chain []byte `json:"chain,omitempty"`
}

// Endorsements is an immutable, content-addressed set, at most one document of
// a kind. The zero value is the empty set.
type Endorsements struct {
	items  []Endorsement // sorted by kind, never modified
	digest [32]byte
}

// NewEndorsements returns the set of items; of two items of one kind the later
// one counts.
func NewEndorsements(items ...Endorsement) Endorsements {
	byKind := make(map[string]Endorsement, len(items))
	for _, it := range items {
		byKind[it.Kind] = Endorsement{it.Kind, bytes.Clone(it.Body), bytes.Clone(it.Chain)}
	}
	var s Endorsements
	for _, it := range byKind {
		s.items = append(s.items, it)
	}
	sort.Slice(s.items, func(i, j int) bool { return s.items[i].Kind < s.items[j].Kind })
	h := sha256.New()
	for _, it := range s.items {
		for _, part := range [][]byte{[]byte(it.Kind), it.Body, it.Chain} {
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
			h.Write(part)
		}
	}
	s.digest = [32]byte(h.Sum(nil))
	return s
}

// Get returns the document of a kind.
func (s Endorsements) Get(kind string) (Endorsement, bool) {
	for _, it := range s.items {
		if it.Kind == kind {
			return it, true
		}
	}
	return Endorsement{}, false
}

// Items returns the documents, ordered by kind. They must not be modified.
func (s Endorsements) Items() []Endorsement { return s.items }

// Digest identifies the set by its bytes.
func (s Endorsements) Digest() [32]byte { return s.digest }

// MarshalJSON encodes the set as an array of its documents.
func (s Endorsements) MarshalJSON() ([]byte, error) { return json.Marshal(s.items) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Endorsements) UnmarshalJSON(b []byte) error {
	var items []Endorsement
	if err := json.Unmarshal(b, &items); err != nil {
		return err
	}
	*s = NewEndorsements(items...)
	return nil
}
