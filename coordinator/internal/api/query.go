package api

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// query reads the query of r strictly: only the parameters named, each once.
func query(r *http.Request, allowed ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, problem.New("CRD-110", "the query cannot be read")
	}
	for key, values := range q {
		if !slices.Contains(allowed, key) {
			return nil, unknownParameter(key, allowed)
		}
		if len(values) != 1 {
			return nil, problem.New("CRD-110", "parameter %q is given %d times", key, len(values))
		}
	}
	return q, nil
}

func unknownParameter(key string, allowed []string) error {
	key = clip(key, 40)
	if len(allowed) == 0 {
		return problem.New("CRD-110", "parameter %q: none is taken here", key)
	}
	e := problem.New("CRD-110", "parameter %q is unknown; these are: %s", key, strings.Join(allowed, ", "))
	if best := nearest.Word(key, allowed); best != "" {
		return e.WithNext("did you mean %q?", best)
	}
	return e
}

// number reads a decimal parameter between low and high; absent gives def.
func number(q url.Values, key string, def, high uint64) (uint64, error) {
	text := q.Get(key)
	if !q.Has(key) {
		return def, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > high || strconv.FormatUint(n, 10) != text {
		return 0, problem.New("CRD-110", "parameter %q: wanted a number up to %d, got %q", key, high, clip(text, 40))
	}
	return n, nil
}

// limit reads the size of a page: 1 to maxPage.
func limit(q url.Values, def int) (int, error) {
	n, err := number(q, "limit", uint64(def), maxPage)
	if err == nil && n == 0 {
		err = problem.New("CRD-110", "parameter %q: wanted at least 1", "limit")
	}
	return int(n), err
}

// nonce reads the hexadecimal nonce of size bytes.
func nonce(q url.Values, size int) ([]byte, error) {
	text := q.Get("nonce")
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != size {
		return nil, problem.New("CRD-110", "parameter %q: wanted %d hexadecimal digits, got %d characters", "nonce", 2*size, len(text)).
			WithNext("send a random nonce of %d bytes, never used before", size)
	}
	return b, nil
}

// clip shortens what a caller sent, for an error text.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
