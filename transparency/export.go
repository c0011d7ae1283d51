package transparency

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	// ExportVersion is the version of exports.
	ExportVersion = 1
	// MaxExported is how many entries an export has at most.
	MaxExported = 1 << 22

	exportKind = "ashlar-log"
	// maxExportLine bounds a line: every byte of an entry and of its private part
	// may be escaped by two.
	maxExportLine = 2*(MaxEntry+MaxPrivate) + MaxNote
)

// exportHeader is the first line of an export.
type exportHeader struct {
	Export     string `json:"export"`  // "ashlar-log"
	Version    int    `json:"version"` // 1
	Log        string `json:"log"`     // the log's key, as Signer.VerifierKey
	Checkpoint string `json:"checkpoint"`
}

// exportLine is each further line: one entry, in the order of the log. Entry and
// private part stand as texts, so that their bytes can be hashed.
type exportLine struct {
	Leaf    attest.Hex `json:"leaf"` // LeafHash of entry, 32 bytes
	Entry   string     `json:"entry"`
	Private string     `json:"private,omitempty"`
}

// ExportWriter writes a log into a file, which ReadExport and scripts check
// without a network: lines of JSON, described in docs/wire.md.
type ExportWriter struct{ out *bufio.Writer }

// NewExportWriter writes the first line. signed is the checkpoint over the
// entries that follow, with whatever co-signatures it has.
func NewExportWriter(out io.Writer, vkey string, signed []byte) (*ExportWriter, error) {
	w := &ExportWriter{bufio.NewWriter(out)}
	return w, w.line(exportHeader{Export: exportKind, Version: ExportVersion, Log: vkey, Checkpoint: string(signed)})
}

// Add writes the next entry. private is nil where there is none, or where it is
// not to be shown.
func (w *ExportWriter) Add(entry, private []byte) error {
	leaf := LeafHash(entry)
	return w.line(exportLine{Leaf: leaf[:], Entry: string(entry), Private: string(private)})
}

// Close writes out what is buffered. It does not close the file.
func (w *ExportWriter) Close() error { return w.out.Flush() }

func (w *ExportWriter) line(v any) error {
	b, err := exportForm(v)
	if err == nil {
		_, err = w.out.Write(b)
	}
	return err
}

// exportForm is the only form of a line, with its line break.
func exportForm(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding a line of an export: %w", err)
	}
	return b.Bytes(), nil
}

// exportReader reads an export line by line. Its errors are LOG-060.
type exportReader struct {
	in *bufio.Reader
	n  int // lines read
}

// next decodes a line in its only form into v; io.EOF after the last.
func (r *exportReader) next(v any) error {
	line, err := r.in.ReadSlice('\n')
	if errors.Is(err, io.EOF) && len(line) == 0 {
		return io.EOF
	}
	r.n++
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return problem.New("LOG-060", "line %d has more than %d bytes", r.n, maxExportLine)
	case errors.Is(err, io.EOF):
		return problem.New("LOG-060", "line %d is cut off", r.n)
	case err != nil:
		return problem.Because(err, "LOG-060", "reading line %d", r.n)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return problem.New("LOG-060", "line %d: %s", r.n, err.Error()) // not as its cause: io.EOF is the end of the file
	}
	again, err := exportForm(v)
	if err != nil || !bytes.Equal(again, line) {
		return problem.New("LOG-060", "line %d is not written in its only form", r.n)
	}
	return nil
}

func readExportHeader(in io.Reader) (*exportReader, exportHeader, error) {
	r := &exportReader{in: bufio.NewReaderSize(in, maxExportLine)}
	var h exportHeader
	switch err := r.next(&h); {
	case errors.Is(err, io.EOF):
		return r, h, problem.New("LOG-060", "it is empty")
	case err != nil:
		return r, h, err
	case h.Export != exportKind || h.Version != ExportVersion:
		return r, h, problem.New("LOG-060", "its first line is of %.40q, version %d, want %q, version %d", h.Export, h.Version, exportKind, ExportVersion)
	}
	return r, h, nil
}

// ReadExport calls each with every entry of an export, in the order of its lines,
// and checks nothing of them. LOG-060.
func ReadExport(in io.Reader, each func(entry []byte) error) error {
	r, _, err := readExportHeader(in)
	if err != nil {
		return err
	}
	for {
		var l exportLine
		switch err := r.next(&l); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := each([]byte(l.Entry)); err != nil {
			return err
		}
	}
}

// IsExport says whether a file that begins with head is meant as an export.
func IsExport(head []byte) bool {
	return strings.HasPrefix(string(head), `{"export":"`+exportKind+`"`)
}
