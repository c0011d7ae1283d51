package transparency

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// KindManifestSet is the kind of the entry of a manifest that was put in force.
// Its subject is the manifest's digest; its details "revision" and "previous" are
// its number and the digest of the manifest before it.
const KindManifestSet = "manifestSet"

// maxFindings bounds what is listed of a damaged export.
const maxFindings = 20

// ExportInput is what an export is judged by.
type ExportInput struct {
	// Log is the key that the reader trusts. Without one, the export's own is
	// taken, which shows only that the export is whole.
	Log string
	// Seen are checkpoints of the log that the reader has verified before; the
	// export must hold the same log.
	Seen []Checkpoint
	// Witnesses are those whose co-signatures are looked for.
	Witnesses []WitnessKey
}

// Revision is a manifest that was put in force, as its entry says.
type Revision struct {
	Seq      uint64 `json:"seq"` // of the entry
	Number   int    `json:"revision"`
	Digest   string `json:"digest"`             // of the manifest, in hex
	Previous string `json:"previous,omitempty"` // digest of the one before; empty for the first
}

// Finding is one thing that is wrong with a log. Its code is that of an Error.
type Finding struct {
	Code  problem.Code `json:"code"`
	Entry uint64       `json:"entry"` // place in the log that it is about
	Text  string       `json:"text"`
}

// ExportReport says what an export holds, and what is wrong with it.
type ExportReport struct {
	Log          string        `json:"log"` // the key that signed the checkpoint
	Checkpoint   Checkpoint    `json:"-"`
	Cosignatures []Cosignature `json:"cosignatures,omitempty"`
	Entries      uint64        `json:"entries"` // lines
	Privates     uint64        `json:"privates"`
	Revisions    []Revision    `json:"revisions"`
	Seen         int           `json:"seen"` // earlier checkpoints that it was compared with
	Findings     []Finding     `json:"findings"`
}

// Err is the first finding as an error, nil if there is none.
func (r ExportReport) Err() error {
	if len(r.Findings) == 0 {
		return nil
	}
	f := r.Findings[0]
	more := ""
	if n := len(r.Findings) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more findings)", n)
	}
	return problem.New(f.Code, "%s%s", f.Text, more)
}

// VerifyExport reads an export and judges it without a network: the signature of
// its checkpoint, that its entries give the root, each entry's hash and its
// private part, that revisions of the manifest follow one another, and that it is
// the log of earlier checkpoints. What is wrong with entries is a finding, LOG-012,
// LOG-054 and LOG-061 to LOG-065 or LOG-051; a file that is none is LOG-060, and a
// checkpoint that the log did not sign LOG-002, LOG-052 or LOG-081.
func VerifyExport(in io.Reader, by ExportInput) (ExportReport, error) {
	lines, head, err := readExportHeader(in)
	if err != nil {
		return ExportReport{}, err
	}
	r := ExportReport{Log: head.Log}
	if by.Log != "" && by.Log != head.Log {
		return r, problem.New("LOG-052", "it is of %.200q, wanted %.200q", head.Log, by.Log)
	}
	if r.Checkpoint, r.Cosignatures, err = OpenCosigned([]byte(head.Checkpoint), head.Log, by.Witnesses); err != nil {
		return r, err
	}
	if r.Checkpoint.Size > MaxExported {
		return r, problem.New("LOG-060", "its checkpoint is over %d entries, limit %d", r.Checkpoint.Size, MaxExported)
	}
	v := exportVerifier{report: &r}
	for {
		var l exportLine
		err := lines.next(&l)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return r, err
		}
		if r.Entries++; r.Entries > MaxExported {
			return r, problem.New("LOG-060", "it has more than %d entries", MaxExported)
		}
		v.line(l)
	}
	v.order()
	for _, f := range v.broken { // after what may be their cause
		v.add(f.Code, f.Entry, "%s", f.Text)
	}
	err = v.compare(by.Seen)
	return r, err
}

// exportVerifier collects what an export shows.
type exportVerifier struct {
	report *ExportReport
	seqs   []uint64   // that the entries say, by line
	leaves [][32]byte // of the entries, by line
	chain  Chain
	broken []Finding // revisions that do not follow
}

// add notes a finding.
func (v *exportVerifier) add(code problem.Code, entry uint64, format string, args ...any) {
	if len(v.report.Findings) < maxFindings {
		v.report.Findings = append(v.report.Findings, Finding{code, entry, fmt.Sprintf(format, args...)})
	}
}

// line checks what can be seen of one entry alone, and its revision.
func (v *exportVerifier) line(l exportLine) {
	place := uint64(len(v.leaves))
	leaf := LeafHash([]byte(l.Entry))
	v.leaves = append(v.leaves, leaf)
	e, err := ParseEntry([]byte(l.Entry))
	if err != nil {
		v.seqs = append(v.seqs, place)
		v.add("LOG-062", place, "entry %d was altered: %v", place, err)
		return
	}
	v.seqs = append(v.seqs, e.Seq)
	if string(leaf[:]) != string(l.Leaf) {
		v.add("LOG-062", e.Seq, "entry %d was altered: its hash is %s, the export says %.16s", e.Seq, short(leaf), l.Leaf)
	}
	if l.Private != "" {
		v.report.Privates++
		if _, err := ParsePrivate(e, []byte(l.Private)); err != nil {
			v.add("LOG-012", e.Seq, "the private part of entry %d is not the one that the entry names: %v", e.Seq, err)
		}
	}
	rev, err := v.chain.Next(e)
	if err != nil {
		v.broken = append(v.broken, Finding{problem.CodeOf(err), e.Seq, problem.From(err).Detail})
	}
	if rev != nil {
		v.report.Revisions = append(v.report.Revisions, *rev)
	}
}

// order finds entries that are too many, missing or out of place, by the places
// that they name themselves.
func (v *exportVerifier) order() {
	size := v.report.Checkpoint.Size
	lines := make(map[uint64]int, len(v.seqs)) // by place
	var newest uint64
	for i, s := range v.seqs {
		_, twice := lines[s]
		switch {
		case s >= size:
			v.add("LOG-064", s, "entry %d was put in: the checkpoint is over %d entries", s, size)
			continue
		case twice:
			v.add("LOG-064", s, "an entry was put in: two say that they are entry %d, the second is line %d", s, i+2)
			continue
		case s < newest:
			v.add("LOG-063", s, "entry %d stands after entry %d: they were put in another order", s, newest)
		}
		lines[s], newest = i, max(newest, s)
	}
	for first := uint64(0); first < size && len(v.report.Findings) < maxFindings; first++ {
		if _, here := lines[first]; here {
			continue
		}
		end := first + 1
		for ; end < size; end++ {
			if _, here := lines[end]; here {
				break
			}
		}
		if end == first+1 {
			v.add("LOG-061", first, "entry %d is missing", first)
		} else {
			v.add("LOG-061", first, "entries %d to %d are missing", first, end-1)
		}
		first = end
	}
}

// compare checks the root, and the roots of earlier checkpoints.
func (v *exportVerifier) compare(seen []Checkpoint) error {
	r := v.report
	roots, err := v.roots(append([]Checkpoint{r.Checkpoint}, seen...))
	if err != nil {
		return err
	}
	root, whole := roots[r.Checkpoint.Size]
	matches := whole && root == r.Checkpoint.Root
	var good, bad uint64 = 0, r.Checkpoint.Size // where the fault must lie
	for _, s := range seen {
		if s.Origin != r.Checkpoint.Origin {
			return problem.New("LOG-052", "it is of the log %s, seen before was %s", r.Checkpoint.Origin, s.Origin)
		}
		got, ok := roots[s.Size]
		if !ok {
			continue
		}
		r.Seen++
		switch {
		case got == s.Root:
			good = max(good, s.Size)
		case matches:
			v.add("LOG-051", s.Size, "the root over its first %d entries is %s, and %s was seen before: two logs are signed with one key", s.Size, short(got), short(s.Root))
		default:
			bad = min(bad, s.Size)
		}
	}
	if !matches && len(r.Findings) == 0 {
		v.add("LOG-065", good, "the entries do not give the root that is signed: one of entries %d to %d was altered together with its hash", good, max(bad, 1)-1)
	}
	return nil
}

// roots computes the roots over as many lines as the checkpoints have entries.
func (v *exportVerifier) roots(checkpoints []Checkpoint) (map[uint64][32]byte, error) {
	wanted := make(map[uint64]bool, len(checkpoints))
	for _, c := range checkpoints {
		wanted[c.Size] = true
	}
	roots := map[uint64][32]byte{}
	tree, err := NewGrowth(0, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; ; i++ {
		if wanted[tree.Size()] {
			if roots[tree.Size()], err = tree.Root(); err != nil {
				return nil, err
			}
		}
		if i == len(v.leaves) {
			return roots, nil
		}
		if err := tree.Add(v.leaves[i]); err != nil {
			return nil, err
		}
	}
}

// Chain follows the revisions of the manifest through the entries of a log. The
// zero Chain begins at an empty log.
type Chain struct {
	last Revision
}

// ChainAfter begins after a revision that is known.
func ChainAfter(last Revision) Chain { return Chain{last: last} }

// Last returns the newest revision; false if there is none.
func (c *Chain) Last() (Revision, bool) { return c.last, c.last.Number > 0 }

// Next returns the revision that an entry puts in force, nil if it is of another
// kind. LOG-054 is a revision that does not follow the one before it.
func (c *Chain) Next(e Entry) (*Revision, error) {
	if e.Kind != KindManifestSet {
		return nil, nil
	}
	number, err := strconv.Atoi(e.Details["revision"])
	if err != nil || number < 1 {
		return nil, problem.New("LOG-054", "entry %d names no revision", e.Seq)
	}
	rev := Revision{Seq: e.Seq, Number: number, Digest: e.Subject, Previous: e.Details["previous"]}
	before := c.last
	c.last = rev
	if number != before.Number+1 || rev.Previous != before.Digest {
		return &rev, problem.New("LOG-054", "entry %d sets revision %d after %s, and before it revision %d was %s", e.Seq, number, orNone(rev.Previous), before.Number, orNone(before.Digest))
	}
	return &rev, nil
}

func orNone(digest string) string {
	if digest == "" {
		return "none"
	}
	return digest
}
