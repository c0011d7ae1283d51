// Package backup owns the file that a sealed state is backed up into: framing
// and a digest against damage. What is in it is sealed already, and whoever has
// the file has nothing without the state's key. It refuses names that are no file
// of a state, and to restore over anything.
package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// The format, version 1 (2026-11): a first line, then for each file a line of
// JSON and as many bytes as it says, and a last line with SHA-256 of all before
// it. Each line ends in "\n".
const (
	firstLine = "ashlar-backup 1\n"
	maxLine   = 4 << 10
	// MaxFile is the most that one file may have, in bytes.
	MaxFile = 64 << 30
)

// MarkFile is what Restore leaves beside the state: the name of this restore. The
// next start of the coordinator begins an epoch for it, and removes it.
const MarkFile = "restored"

// names are the files that a state has, in the order in which they are written.
var names = []string{"seal.json", "recovery.json", "state.db"}

// line begins a file, or ends the backup.
type line struct {
	Name   string    `json:"name,omitempty"`
	Size   int64     `json:"size"`
	Time   time.Time `json:"time,omitzero"` // of the backup; in the first line alone
	SHA256 string    `json:"sha256,omitempty"`
	End    bool      `json:"end,omitempty"`
}

// File is one file of a backup.
type File struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// Summary is what a backup says of itself.
type Summary struct {
	Time  time.Time `json:"time"`
	Files []File    `json:"files"`
}

// Writer writes a backup. Call Add for each file, then Close.
type Writer struct {
	w     io.Writer
	sum   hash.Hash
	at    time.Time
	begun bool
}

// NewWriter returns a Writer to w, of a backup that is made now.
func NewWriter(w io.Writer, now time.Time) *Writer {
	sum := sha256.New()
	return &Writer{w: io.MultiWriter(w, sum), sum: sum, at: now.UTC().Truncate(time.Second)}
}

// Add adds a file of a size, which write writes.
func (b *Writer) Add(name string, size int64, write func(io.Writer) error) error {
	l := line{Name: name, Size: size}
	if !b.begun {
		b.begun, l.Time = true, b.at
		if _, err := io.WriteString(b.w, firstLine); err != nil {
			return err
		}
	}
	if err := b.line(l); err != nil {
		return err
	}
	counted := &counter{w: b.w}
	if err := write(counted); err != nil {
		return err
	}
	if counted.n != size {
		return fmt.Errorf("%s has %d bytes, and %d were announced", name, counted.n, size)
	}
	return nil
}

// Close writes the last line.
func (b *Writer) Close() error {
	return b.line(line{End: true, SHA256: hex.EncodeToString(b.sum.Sum(nil))})
}

func (b *Writer) line(l line) error {
	text, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encoding a line: %w", err)
	}
	_, err = b.w.Write(append(text, '\n'))
	return err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Read reads a backup to its end and gives each file to take, which must read it
// whole. What take did counts only if Read returns nil: the digest comes last. A
// damaged or cut backup is STO-023.
func Read(r io.Reader, take func(f File, content io.Reader) error) (Summary, error) {
	var s Summary
	sum := sha256.New()
	in := bufio.NewReaderSize(r, maxLine)
	if first, err := in.ReadSlice('\n'); err != nil || string(first) != firstLine {
		return s, problem.New("STO-023", "it does not begin with %q", firstLine)
	}
	sum.Write([]byte(firstLine))
	next := 0 // in names
	for {
		l, text, err := readLine(in)
		switch {
		case err != nil:
			return s, err
		case l.End:
			return s, ended(in, l, sum, s)
		}
		sum.Write(text)
		place := slices.Index(names[next:], l.Name)
		if place < 0 || l.Size < 0 || l.Size > MaxFile || l.SHA256 != "" || l.Time.IsZero() == (len(s.Files) == 0) {
			return s, problem.New("STO-023", "no file %.40q of %d bytes is expected here", l.Name, l.Size)
		}
		if next += place + 1; len(s.Files) == 0 {
			s.Time = l.Time
		}
		s.Files = append(s.Files, File{l.Name, l.Size})
		content := io.TeeReader(io.LimitReader(in, l.Size), sum)
		if err := take(File{l.Name, l.Size}, content); err != nil {
			return s, err
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return s, problem.Because(err, "STO-023", "reading %s", l.Name)
		}
	}
}

func readLine(in *bufio.Reader) (l line, text []byte, err error) {
	text, err = in.ReadSlice('\n')
	if err != nil {
		return l, nil, problem.New("STO-023", "it was cut short, or damaged: a line was expected")
	}
	text = bytes.Clone(text)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return l, nil, problem.Because(err, "STO-023", "reading a line")
	}
	if again, err := json.Marshal(l); err != nil || !bytes.Equal(append(again, '\n'), text) {
		return l, nil, problem.New("STO-023", "a line is not as a coordinator writes it")
	}
	return l, text, nil
}

// ended judges the last line.
func ended(in *bufio.Reader, l line, sum hash.Hash, s Summary) error {
	_, err := in.ReadByte()
	switch {
	case l.Size != 0 || l.Name != "" || !l.Time.IsZero():
		return problem.New("STO-023", "its last line says more than its digest")
	case l.SHA256 != hex.EncodeToString(sum.Sum(nil)):
		return problem.New("STO-023", "its digest is another than its last line says")
	case !errors.Is(err, io.EOF):
		return problem.New("STO-023", "it goes on after its end")
	case !slices.ContainsFunc(s.Files, func(f File) bool { return f.Name == "state.db" }), !slices.ContainsFunc(s.Files, func(f File) bool { return f.Name == "seal.json" }):
		return problem.New("STO-023", "it lacks state.db or seal.json")
	}
	return nil
}

// Verify reads a backup and throws its content away.
func Verify(r io.Reader) (Summary, error) {
	return Read(r, func(File, io.Reader) error { return nil })
}

// Restore puts a backup's files into dir, which must not exist or be empty, and
// leaves a mark there. dir takes its name last, so that an interrupted restore
// leaves no state. The errors are STO-022 (something is there), STO-023 and
// STO-007.
func Restore(r io.Reader, dir, mark string) (Summary, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return Summary{}, problem.New("STO-022", "%s is not empty", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Summary{}, problem.Because(err, "STO-007", "looking into %s", dir)
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return Summary{}, problem.Because(err, "STO-007", "creating %s", parent)
	}
	temp, err := os.MkdirTemp(parent, ".restore-")
	if err != nil {
		return Summary{}, problem.Because(err, "STO-007", "creating a folder beside %s", dir)
	}
	s, err := Read(r, func(f File, content io.Reader) error { return write(filepath.Join(temp, f.Name), content) })
	if err == nil {
		err = place(temp, dir, mark)
	}
	if err != nil {
		_ = os.RemoveAll(temp) // nothing of it counts
	}
	return s, err
}

// place gives the files their folder.
func place(temp, dir, mark string) error {
	if err := durable.WriteFile(filepath.Join(temp, MarkFile), []byte(mark+"\n"), 0o600); err != nil {
		return problem.Because(err, "STO-007", "marking the restore")
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return problem.New("STO-022", "%s is not empty", dir)
	}
	if err := durable.Rename(temp, dir); err != nil {
		return problem.Because(err, "STO-007", "naming %s", dir)
	}
	return nil
}

func write(path string, content io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return problem.Because(err, "STO-007", "writing %s", path)
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return problem.Because(err, "STO-007", "writing %s", path)
	}
	return nil
}
