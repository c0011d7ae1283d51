package api

import (
	"net/http"
	"strconv"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// immutable is how long caches may keep a tile: nothing in it ever changes.
const immutable = "public, max-age=31536000, immutable"

func (s *clientAPI) checkpoint(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "witnessed")
	if err != nil {
		return err
	}
	witnessed := false
	if q.Has("witnessed") {
		if witnessed, err = strconv.ParseBool(q.Get("witnessed")); err != nil {
			return problem.New("CRD-110", "parameter %q: wanted true or false, got %q", "witnessed", clip(q.Get("witnessed"), 40))
		}
	}
	read := s.c.LatestCheckpoint
	if witnessed {
		read = s.c.WitnessedCheckpoint
	}
	signed, err := read(r.Context())
	if err != nil {
		return err
	}
	return plain(w, signed)
}

func (s *clientAPI) logKey(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return plain(w, []byte(s.c.LogKey()+"\n"))
}

func plain(w http.ResponseWriter, text []byte) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	write(w, http.StatusOK, text)
	return nil
}

// tile serves tiles as c2sp.org/tlog-tiles has them. One of entries counts as a
// statement: it reads as many records as it has.
func (s *clientAPI) tile(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	t, err := transparency.ParseTilePath("tile/" + r.PathValue("path"))
	if err != nil {
		return err
	}
	if t.Level == transparency.EntryLevel {
		if err := s.mayAsk(w, r); err != nil {
			return err
		}
	}
	body, err := s.c.Tile(r.Context(), t)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", immutable)
	write(w, http.StatusOK, body)
	return nil
}

// mayAsk counts what costs as much as a statement.
func (s *clientAPI) mayAsk(w http.ResponseWriter, r *http.Request) error {
	if conn, _ := r.Context().Value(connKey{}).(*gated); conn != nil {
		if ok, after := s.statements.take(conn.host); !ok {
			retryAfter(w, after)
			return problem.New("CRD-115", "too many were asked for from this address")
		}
	}
	return nil
}

func (s *clientAPI) inclusion(w http.ResponseWriter, r *http.Request) error {
	n, err := numbers(r, "index", "size")
	if err != nil {
		return err
	}
	if err := s.mayAsk(w, r); err != nil {
		return err
	}
	p, err := s.c.Prove(r.Context(), n[0], n[1])
	if err != nil {
		return err
	}
	return answer(w, p)
}

func (s *clientAPI) consistency(w http.ResponseWriter, r *http.Request) error {
	n, err := numbers(r, "older", "size")
	if err != nil {
		return err
	}
	if err := s.mayAsk(w, r); err != nil {
		return err
	}
	p, err := s.c.Consistency(r.Context(), n[0], n[1])
	if err != nil {
		return err
	}
	return answer(w, apiv1.Consistency{Proof: p})
}

// numbers reads parameters that are all wanted.
func numbers(r *http.Request, keys ...string) ([]uint64, error) {
	q, err := query(r, keys...)
	if err != nil {
		return nil, err
	}
	values := make([]uint64, len(keys))
	for i, key := range keys {
		if !q.Has(key) {
			return nil, problem.New("CRD-110", "parameter %q is missing", key)
		}
		if values[i], err = number(q, key, 0, 1<<62); err != nil {
			return nil, err
		}
	}
	return values, nil
}
