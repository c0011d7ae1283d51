package localapi

import (
	"bytes"
	"encoding/pem"
	"net/http"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble"
)

// result answers everything but a fetch. Bytes are base64 in JSON.
type result struct {
	Output  []byte  `json:"output,omitempty"`
	Version uint64  `json:"version"`
	Count   *uint64 `json:"count,omitempty"`

	public bool // Output is a public key
}

// secretDocument is a fetched secret before it is written down.
type secretDocument struct {
	name   string
	secret marble.Secret
}

// secretJSON is a secret as JSON; what its type does not have is absent.
type secretJSON struct {
	Name         string      `json:"name,omitempty"`
	Version      uint64      `json:"version"`
	Value        []byte      `json:"value,omitempty"`
	PrivateKey   []byte      `json:"privateKey,omitempty"` // PKCS #8 DER
	PublicKey    []byte      `json:"publicKey,omitempty"`  // PKIX DER
	Certificates [][]byte    `json:"certificates,omitempty"`
	Previous     *secretJSON `json:"previous,omitempty"`
}

func (d secretDocument) json() secretJSON {
	out := secretJSON{Name: d.name, Version: d.secret.Version(), Value: d.secret.Bytes(), PrivateKey: d.secret.PrivateKey(),
		PublicKey: d.secret.PublicKey(), Certificates: d.secret.Certificates()}
	if before, ok := d.secret.Previous(); ok {
		p := secretDocument{secret: before}.json()
		out.Previous = &p
	}
	return out
}

// reply writes what was asked for: JSON, or with ?as=raw the value or output
// itself, or with ?as=pem keys and certificates.
func reply(w http.ResponseWriter, r request, out any) {
	as := r.query.Get("as")
	var body []byte
	switch as {
	case "":
		if d, ok := out.(secretDocument); ok {
			out = d.json()
		}
		answer(w, out)
		return
	case "raw":
		body = raw(out)
	case "pem":
		body = pemOf(out)
	default:
		refuse(w, problem.New("MRB-035", "as=%.20q: wanted raw or pem", as))
		return
	}
	if len(body) == 0 {
		refuse(w, problem.New("MRB-035", "%s has nothing that could be written as %s", r.name, as))
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	write(w, http.StatusOK, body)
}

func raw(out any) []byte {
	switch out := out.(type) {
	case secretDocument:
		return out.secret.Bytes()
	case result:
		return out.Output
	}
	return nil
}

func pemOf(out any) []byte {
	var b bytes.Buffer
	block := func(label string, der []byte) {
		if len(der) > 0 {
			_ = pem.Encode(&b, &pem.Block{Type: label, Bytes: der}) // into memory
		}
	}
	switch out := out.(type) {
	case secretDocument:
		for _, c := range out.secret.Certificates() {
			block("CERTIFICATE", c)
		}
		block("PRIVATE KEY", out.secret.PrivateKey())
		if b.Len() == 0 {
			block("PUBLIC KEY", out.secret.PublicKey())
		}
	case result:
		if out.public {
			block("PUBLIC KEY", out.Output)
		}
	}
	return b.Bytes()
}
