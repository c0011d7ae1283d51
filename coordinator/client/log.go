package client

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// maxTile is the size limit of a tile of entries, in bytes.
const maxTile = transparency.TileWidth * (2 + transparency.MaxEntry)

// logPath is where the log is served.
const logPath = "/v1/log/"

// getter fetches a resource of at most limit bytes.
type getter func(path string, limit int64) ([]byte, error)

// maxPauses is how often a getter waits when a coordinator is asked for too much
// at once, each time for politeRest.
const (
	maxPauses  = 20
	politeRest = time.Second
)

// patient returns a getter that waits when the coordinator says that it is asked
// for too much at once (CRD-115).
func (get getter) patient(ctx context.Context) getter {
	return func(path string, limit int64) (body []byte, err error) {
		for range maxPauses {
			if body, err = get(path, limit); problem.CodeOf(err) != "CRD-115" {
				return body, err
			}
			if !pause.For(ctx, politeRest) {
				return nil, err
			}
		}
		return body, err
	}
}

// tiles returns how a reader of the log fetches.
func (get getter) tiles() func(transparency.Tile) ([]byte, error) {
	return func(t transparency.Tile) ([]byte, error) {
		limit := int64(transparency.TileWidth * 32)
		if t.Level == transparency.EntryLevel {
			limit = maxTile
		}
		return get(logPath+t.Path(), limit)
	}
}

// acceptance fetches what shows that the log has accepted the manifest in force.
func (get getter) acceptance(size uint64) (apiv1.Acceptance, error) {
	var a apiv1.Acceptance
	body, err := get("/v1/manifest/acceptance?size="+strconv.FormatUint(size, 10), maxAnswer)
	if err == nil {
		err = decode(body, &a)
	}
	return a, err
}

// witnessed fetches the newest checkpoint that witnesses have co-signed.
func (get getter) witnessed() ([]byte, error) {
	return get(logPath+"checkpoint?witnessed=true", transparency.MaxNote)
}

// on returns how to fetch over one connection before anything else may use it.
// Each request has the client's time-out; ctx ends all of them.
func (c *Client) on(ctx context.Context, conn net.Conn) getter {
	return func(path string, limit int64) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, unreachable(err, c.addr)
		}
		_ = conn.SetDeadline(time.Now().Add(c.o.Timeout)) // a connection that cannot have one fails at the first read
		body, err := exchange(conn, c.addr, path, limit)
		if ctx.Err() != nil {
			return nil, unreachable(ctx.Err(), c.addr)
		}
		return body, err
	}
}

// getter returns how to fetch over any connection of the client.
func (c *Client) getter(ctx context.Context) getter {
	get := getter(func(path string, limit int64) ([]byte, error) {
		target, err := url.Parse(path)
		if err != nil {
			return nil, problem.Because(err, "CRD-110", "path %q", path)
		}
		return c.do(ctx, call{method: http.MethodGet, path: target.Path, query: target.Query(), limit: limit})
	})
	return get.patient(ctx)
}

// history holds a statement that passed against the log: against the remembered
// checkpoint if there is one, and against the client's witnesses. It is nil where
// neither is asked for.
func (c *Client) history(ctx context.Context, get getter, v Verified, old *Remembered) (*History, error) {
	if old == nil && c.o.Entries == 0 && c.o.Witnessing.AtLeast == 0 {
		return nil, nil
	}
	get = get.patient(ctx)
	r := transparency.NewReader(v.Checkpoint, get.tiles())
	var h *History
	var err error
	if old != nil {
		h, err = c.since(r, v, *old)
	} else {
		h, err = c.sinceAcceptance(get, r, v)
	}
	if err != nil || c.o.Witnessing.AtLeast == 0 {
		return h, err
	}
	return h, c.witnesses(get, r, v.Statement.LogKey, h)
}

// since demands that the log begins with the one that is remembered, and reads
// what was added.
func (c *Client) since(r *transparency.Reader, v Verified, old Remembered) (*History, error) {
	was, err := old.open()
	if err != nil {
		return nil, err
	}
	if err := r.Begins(was); err != nil {
		return nil, err
	}
	limit := c.o.Entries
	if limit == 0 {
		limit = DefaultEntries
	}
	h, err := follow(r, knownOf(old, was), v, limit)
	if err == nil {
		h.Remembered = true
	}
	return h, err
}

// sinceAcceptance reads what was added to the log after the manifest in force
// was accepted, as far as the client wants to read.
func (c *Client) sinceAcceptance(get getter, r *transparency.Reader, v Verified) (*History, error) {
	size := v.Checkpoint.Size
	nothing := &History{Since: size, Size: size, Revisions: []transparency.Revision{}, Kinds: map[string]int{}}
	if c.o.Entries == 0 {
		return nothing, nil
	}
	var k known
	if v.Statement.Revision > 0 {
		a, err := get.acceptance(size)
		if err != nil {
			return nil, err
		}
		accepted, err := checkAcceptance(v.Statement, v.Checkpoint, a)
		if err != nil {
			return nil, err
		}
		k = known{accepted.Seq + 1, transparency.Revision{Number: v.Statement.Revision, Digest: v.Statement.Manifest.String()}}
	}
	if size-k.size > c.o.Entries {
		return nothing, nil
	}
	return follow(r, k, v, c.o.Entries)
}

// witnesses demands co-signatures of a checkpoint that the log agrees with.
func (c *Client) witnesses(get getter, r *transparency.Reader, key string, h *History) error {
	signed, err := get.witnessed()
	if problem.CodeOf(err) == "LOG-015" {
		return problem.New("LOG-082", "none of %d witnesses has co-signed a checkpoint, and %d are wanted", len(c.o.Witnessing.Keys), c.o.Witnessing.AtLeast)
	}
	if err != nil {
		return err
	}
	at, co, err := transparency.OpenCosigned(signed, key, c.o.Witnessing.Keys)
	if err != nil {
		return err
	}
	if at.Size > r.Checkpoint().Size { // the log has grown meanwhile
		err = transparency.NewReader(at, get.tiles()).Begins(r.Checkpoint())
	} else {
		err = r.Begins(at)
	}
	if err != nil {
		return err
	}
	return c.o.Witnessing.check(h, co, at.Size, c.o.Now())
}
