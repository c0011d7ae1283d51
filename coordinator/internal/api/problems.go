package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// typeURL leads to the description of a code.
const typeURL = "https://github.com/ashlar-mesh/ashlar/blob/main/docs/errors.md#"

// document is a problem as RFC 9457 renders it, with our extension members.
type document struct {
	Type     string          `json:"type"`
	Title    string          `json:"title"`
	Status   int             `json:"status"`
	Detail   string          `json:"detail"`
	Code     problem.Code    `json:"code"`
	Next     string          `json:"next,omitempty"`
	Instance string          `json:"instance,omitempty"`
	Verdict  json.RawMessage `json:"verdict,omitempty"`
}

// statuses are those that differ from their kind's.
var statuses = map[problem.Code]int{
	"CRD-112": http.StatusMethodNotAllowed,
	"CRD-114": http.StatusUnsupportedMediaType,
}

func statusOf(e *problem.Error) int {
	if s, ok := statuses[e.Code]; ok {
		return s
	}
	return e.Kind().HTTPStatus()
}

// public returns err as it may leave the process: coded, and without the text
// of a failure that nobody foresaw, which goes to the log alone.
func public(err error, id string, log *slog.Logger) *problem.Error {
	var coded *problem.Error
	switch {
	case errors.As(err, &coded):
	case errors.Is(err, context.DeadlineExceeded):
		coded = problem.New("CRD-120", "no answer was found in time")
	case errors.Is(err, context.Canceled):
		coded = problem.New("CRD-003", "the request was given up")
	default:
		coded = problem.New("CRD-001", "the coordinator's log has the cause under request %s", id)
	}
	if coded.Kind() == problem.Internal {
		log.Error("request failed", "request", id, "code", string(coded.Code), "error", err)
	}
	out := *coded
	if out.Instance == "" {
		out.Instance = id
	}
	return &out
}

func (s *clientAPI) fail(w http.ResponseWriter, r *http.Request, err error) {
	id, _ := r.Context().Value(requestKey{}).(string)
	e := public(err, id, s.log)
	d := document{Type: typeURL + strings.ToLower(string(e.Code)), Title: problem.Lookup(e.Code).Title, Status: statusOf(e),
		Detail: e.Detail, Code: e.Code, Next: e.Next, Instance: e.Instance, Verdict: e.Verdict}
	body, encodeErr := json.Marshal(d)
	if encodeErr != nil { // only a malformed verdict can be the cause
		d.Verdict = nil
		body, _ = json.Marshal(d)
	}
	if e.Kind() == problem.Busy && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Del("ETag")
	write(w, d.Status, body)
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the peer may be gone: nobody else is to be told
}

// retryAfter tells when to come back, in whole seconds.
func retryAfter(w http.ResponseWriter, after time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(after/time.Second)+1))
}
