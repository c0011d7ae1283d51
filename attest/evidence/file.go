package evidence

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// reportSize is the size of an SEV-SNP report, in bytes.
const reportSize = 1184

// sources are the names under which Load finds evidence.
var sources = []string{QuoteFile, ReportFile, CertificateFile, DeviceFile, DeviceReport}

// LoadFile reads one file of evidence from a folder, whatever it is called, with
// the endorsements and meta.json that lie beside it under their own names. Errors
// are those of Load.
func LoadFile(fsys fs.FS, name string) (Set, error) {
	raw, err := readFile(fsys, name)
	if err != nil {
		return Set{}, problem.Because(err, "ATT-040", "reading %s", name)
	}
	kind := kindOf(name, raw)
	if kind == "" {
		return Set{}, problem.New("ATT-041", "%s is no evidence of a kind that is known here", name)
	}
	return Load(single{fsys, name, kind})
}

// kindOf returns the name that Load knows evidence of this kind by.
func kindOf(name string, raw []byte) string {
	switch {
	case slices.Contains(sources, name):
		return name
	case bytes.HasPrefix(bytes.TrimSpace(raw), []byte("-----BEGIN CERTIFICATE-----")):
		return CertificateFile
	case len(binary(raw)) == reportSize:
		return ReportFile
	case dcap.Detect(binary(raw)) != "":
		return QuoteFile
	case strings.HasSuffix(name, ".hex"):
		return DeviceReport
	case json.Valid(raw):
		return DocumentFile
	}
	return ""
}

// single is a folder in which one file is all the evidence, under another name.
type single struct {
	fs.FS
	name, as string
}

// Open implements fs.FS.
func (s single) Open(name string) (fs.File, error) {
	if name == s.as {
		return s.FS.Open(s.name)
	}
	if slices.Contains(sources, name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return s.FS.Open(name)
}
