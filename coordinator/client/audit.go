package client

import (
	"context"
	"io"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// auditPage is how many entries are asked for at once with their private parts,
// so that the answer keeps under maxAnswer.
const auditPage = 48

// Log is the log of a verified coordinator, up to one checkpoint. Everything that
// it returns was checked against that. It is not safe for concurrent use.
type Log struct {
	c      *Client
	get    getter
	reader *transparency.Reader
	key    string
	signed []byte
}

// Logged is an entry of the log, with its private part where it was shown.
type Logged struct {
	transparency.Entry
	Private *transparency.Private // nil where there is none, or none to be seen
	// The bytes that are hashed; RawPrivate may be nil.
	Raw, RawPrivate []byte
}

// Log returns the log up to the checkpoint of the newest verification. ctx ends
// all that is read of it.
func (c *Client) Log(ctx context.Context) *Log {
	v := c.Verified()
	return c.newLog(ctx, v.Checkpoint, v.Statement.LogKey, []byte(v.Statement.Checkpoint))
}

func (c *Client) newLog(ctx context.Context, at transparency.Checkpoint, key string, signed []byte) *Log {
	get := c.getter(ctx)
	return &Log{c: c, get: get, reader: transparency.NewReader(at, get.tiles()), key: key, signed: signed}
}

// Grown returns the log up to its newest checkpoint, which must begin with all
// that l has. It has the co-signatures of that checkpoint, if there are any.
func (l *Log) Grown(ctx context.Context) (*Log, error) {
	signed, err := l.c.getter(ctx)(logPath+"checkpoint", transparency.MaxNote)
	if err != nil {
		return nil, err
	}
	at, err := transparency.Open(signed, l.key)
	if err != nil {
		return nil, err
	}
	next := l.c.newLog(ctx, at, l.key, signed)
	return next, next.reader.Begins(l.reader.Checkpoint())
}

// Checkpoint returns how far the log goes.
func (l *Log) Checkpoint() transparency.Checkpoint { return l.reader.Checkpoint() }

// Key returns the verifier key of the log.
func (l *Log) Key() string { return l.key }

// Note returns the signed checkpoint.
func (l *Log) Note() []byte { return l.signed }

// Entries returns entry first and some that follow it; none after the last. As a
// user of the manifest the client gets their private parts too.
func (l *Log) Entries(ctx context.Context, first uint64) ([]Logged, error) {
	if first >= l.Checkpoint().Size {
		return nil, nil
	}
	if l.c.o.Certificate == nil {
		raw, err := l.reader.Entries(first)
		if err != nil {
			return nil, err
		}
		entries := make([]Logged, len(raw))
		for i, b := range raw {
			if entries[i], err = parseLogged(first+uint64(i), b, nil); err != nil {
				return nil, err
			}
		}
		return entries, nil
	}
	leaves, err := l.reader.Leaves(first, first+auditPage)
	if err != nil {
		return nil, err
	}
	page, err := l.c.Audit(ctx, first, len(leaves))
	if err != nil {
		return nil, err
	}
	if len(page.Records) != len(leaves) {
		return nil, problem.New("LOG-056", "of the entries from %d on, %d were served, and %d asked for", first, len(page.Records), len(leaves))
	}
	entries := make([]Logged, len(leaves))
	for i, r := range page.Records {
		at := first + uint64(i)
		if leaf := transparency.LeafHash(r.Entry); leaf != leaves[i] {
			return nil, problem.New("LOG-056", "entry %d was served with the hash %s, in the log it has %s", at, short(leaf[:]), short(leaves[i][:]))
		}
		if entries[i], err = parseLogged(at, r.Entry, r.Private); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

func parseLogged(at uint64, raw, private []byte) (Logged, error) {
	e, err := transparency.ParseEntry(raw)
	if err != nil {
		return Logged{}, err
	}
	if e.Seq != at {
		return Logged{}, problem.New("LOG-056", "entry %d says that it is entry %d", at, e.Seq)
	}
	out := Logged{Entry: e, Raw: raw}
	if len(private) == 0 {
		return out, nil
	}
	p, err := transparency.ParsePrivate(e, private)
	out.Private, out.RawPrivate = &p, private
	return out, err
}

// Prove returns what shows to anybody, offline, that the log holds an entry.
// CRD-110 if it is not before the checkpoint.
func (l *Log) Prove(ctx context.Context, index uint64) (transparency.ProofFile, Logged, error) {
	none := transparency.ProofFile{}
	if size := l.Checkpoint().Size; index >= size {
		return none, Logged{}, problem.New("CRD-110", "entry %d: the log has %d", index, size)
	}
	entries, err := l.Entries(ctx, index)
	if err != nil {
		return none, Logged{}, err
	}
	_, path, err := l.reader.Inclusion(index)
	if err != nil {
		return none, Logged{}, err
	}
	e := entries[0]
	return transparency.ProofFile{Log: l.key, Index: index, Entry: e.Raw, Private: e.RawPrivate, Proof: path, Note: l.signed}, e, nil
}

// Export writes the whole log, as transparency.VerifyExport reads it. each, which
// may be nil, is called with the number of entries written.
func (l *Log) Export(ctx context.Context, out io.Writer, each func(uint64)) error {
	w, err := transparency.NewExportWriter(out, l.key, l.signed)
	if err != nil {
		return err
	}
	for at := uint64(0); at < l.Checkpoint().Size; {
		entries, err := l.Entries(ctx, at)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := w.Add(e.Raw, e.RawPrivate); err != nil {
				return err
			}
		}
		at += uint64(len(entries))
		if each != nil {
			each(at)
		}
	}
	return w.Close()
}

// Compare demands that an export holds the first entries of the log, and no
// others, and returns how many. LOG-062 and LOG-064 name the first place where it
// does not.
func (l *Log) Compare(ctx context.Context, export io.Reader) (uint64, error) {
	var at uint64
	var leaves [][32]byte
	size := l.Checkpoint().Size
	err := transparency.ReadExport(export, func(entry []byte) error {
		if at >= size {
			return problem.New("LOG-064", "entry %d was put in: the log has %d", at, size)
		}
		if len(leaves) == 0 {
			var err error
			if leaves, err = l.reader.Leaves(at, size); err != nil {
				return err
			}
		}
		if leaf := transparency.LeafHash(entry); leaf != leaves[0] {
			return problem.New("LOG-062", "entry %d of the export has the hash %s, in the log it has %s: it is the first that was altered, dropped or put in", at, short(leaf[:]), short(leaves[0][:]))
		}
		leaves, at = leaves[1:], at+1
		return ctx.Err()
	})
	return at, err
}
