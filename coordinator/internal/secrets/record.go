package secrets

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// record is a secret as it is kept: in these sealed tables and nowhere else.
type record struct {
	Shape  string    `json:"shape"`
	Latest uint64    `json:"latest"` // number of the newest version that ever was
	Now    *version  `json:"now,omitempty"`
	Before *version  `json:"before,omitempty"` // while the two overlap
	Until  time.Time `json:"until,omitzero"`   // when Before is destroyed
	Stale  bool      `json:"stale,omitempty"`  // a manifest asks for a new version
}

// version is one value.
type version struct {
	Number       uint64    `json:"number"`
	Made         time.Time `json:"made"`
	Keyed        time.Time `json:"keyed,omitzero"` // when its key was made, where that is older
	By           string    `json:"by,omitempty"`   // who supplied it: "user alice", "marble web/INSTANCE"
	Profile      string    `json:"profile,omitempty"`
	NotAfter     time.Time `json:"notAfter,omitzero"` // of the certificate
	Bytes        []byte    `json:"bytes,omitempty"`
	PrivateKey   []byte    `json:"privateKey,omitempty"`
	PublicKey    []byte    `json:"publicKey,omitempty"`
	Serial       string    `json:"serial,omitempty"` // of the certificate
	Certificates [][]byte  `json:"certificates,omitempty"`
}

// Format hides the record from every verb.
func (record) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// Format hides the version from every verb.
func (version) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

var (
	shared    = store.NewTable[record]("secrets")          // by name
	instances = store.NewTable[record]("secrets-instance") // by marble/instance/name
)

// place returns where the record of a secret is kept.
func place(s manifest.Secret, who Asker, name string) (store.Table[record], string) {
	if s.Scope == manifest.Instance {
		return instances, who.Marble + "/" + who.Instance + "/" + name
	}
	return shared, name
}

// split is the inverse of place for instance secrets.
func split(key string) (Asker, string) {
	i := strings.LastIndexByte(key, '/')
	if i < 0 {
		return Asker{}, key
	}
	marble, instance, _ := strings.Cut(key[:i], "/")
	return Asker{Marble: marble, Instance: instance}, key[i+1:]
}

// value returns what a reader gets at a time: of a use-only key the public part.
func (r record) value(s manifest.Secret, at time.Time) Value {
	v := r.Now.value(s)
	if r.overlaps(at) {
		before := r.Before.value(s)
		v.Previous = &before
	}
	return v
}

func (v *version) value(s manifest.Secret) Value {
	out := Value{Version: v.Number, PublicKey: v.PublicKey, Serial: v.Serial, NotAfter: v.NotAfter}
	if len(s.Operations) == 0 {
		out.Bytes, out.PrivateKey, out.Certificates = v.Bytes, v.PrivateKey, v.Certificates
	}
	return out
}

// overlaps reports whether the version before still counts.
func (r record) overlaps(at time.Time) bool { return r.Before != nil && at.Before(r.Until) }

// numbered returns the version with a number that counts at a time; 0 is the
// newest.
func (r record) numbered(n uint64, at time.Time) *version {
	switch {
	case r.Now != nil && (n == 0 || n == r.Now.Number):
		return r.Now
	case n != 0 && r.overlaps(at) && n == r.Before.Number:
		return r.Before
	}
	return nil
}

// advance returns the record with v as its newest version, and the numbers of
// those that are destroyed by that. The one before stays for the overlap, unless
// the secret's shape is another.
func (r record) advance(s manifest.Secret, v version, at time.Time) (record, []uint64) {
	v.Number = r.Latest + 1
	next := record{Shape: shape(s), Latest: v.Number, Now: &v}
	var gone []uint64
	if r.Before != nil {
		gone = append(gone, r.Before.Number)
	}
	overlap := time.Duration(s.Rotation.Overlap)
	switch {
	case r.Now == nil:
	case r.Shape == next.Shape && overlap > 0:
		next.Before, next.Until = r.Now, at.Add(overlap).UTC()
	default:
		gone = append(gone, r.Now.Number)
	}
	return next, gone
}

// usable reports whether a record serves its definition: the same shape, and
// for certificates the same profile and more than a quarter of its life left.
func (r record) usable(s manifest.Secret, at time.Time) bool {
	return r.Now != nil && !r.Stale && r.Shape == shape(s) && r.Now.Profile == certProfile(s) && !r.Now.ending(at)
}

// ending reports whether a certificate has a quarter of its life left or less.
func (v *version) ending(at time.Time) bool {
	return !v.NotAfter.IsZero() && v.NotAfter.Sub(at) <= v.NotAfter.Sub(v.Made)/4
}

// keyed is when the version's key was made.
func (v *version) keyed() time.Time {
	if v.Keyed.IsZero() {
		return v.Made
	}
	return v.Keyed
}

// rotationDue is when the schedule asks for the next key; zero is never.
func (r record) rotationDue(s manifest.Secret) time.Time {
	if r.Now == nil || s.Rotation.Every <= 0 || supplied(s.Type) {
		return time.Time{}
	}
	return r.Now.keyed().Add(time.Duration(s.Rotation.Every))
}

// supplied reports whether a secret has the values that it was given, and none
// can be made for it.
func supplied(t manifest.SecretType) bool { return t == manifest.Opaque || t == manifest.Counter }

// shape is what a value cannot survive a change of.
func shape(s manifest.Secret) string {
	bits := s.Bits
	switch s.Type {
	case manifest.Symmetric:
		bits = or(bits, defaultSymmetric)
	case manifest.CertRSA, manifest.RSA:
		bits = or(bits, defaultRSA)
	case manifest.CertECDSA, manifest.ECDSA:
		bits = or(bits, defaultECDSA)
	}
	scope := s.Scope
	if scope == "" {
		scope = manifest.Shared
	}
	if len(s.Operations) > 0 {
		// What was handed out is no use-only key any more, and the other way round.
		return fmt.Sprintf("%s/%d/%s/use", s.Type, bits, scope)
	}
	return fmt.Sprintf("%s/%d/%s", s.Type, bits, scope)
}

// certProfile is what a certificate cannot survive a change of; its key can.
func certProfile(s manifest.Secret) string {
	if !s.Type.Certified() {
		return ""
	}
	return strings.Join([]string{s.CommonName, strings.Join(s.DNSNames, ","), s.Validity.String(),
		strings.Join(s.Organization, ","), strings.Join(s.IPAddresses, ","), strings.Join(s.ExtendedKeyUsages, ",")}, "|")
}

func or(n, other int) int {
	if n == 0 {
		return other
	}
	return n
}
