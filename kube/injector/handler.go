package injector

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/internal/plain"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	// maxReview is the size of a review: a pod has at most 3 MiB.
	maxReview = 4 << 20
	// maxReviews is what all reviews that are being read and answered may have
	// together, in bytes.
	maxReviews = 16 << 20
	// maxValues bounds the JSON values of a review, and of all of them together
	// allValues: an element of two bytes becomes a container of hundreds.
	maxValues  = 20_000
	allValues  = 3 * maxValues
	bodyTime   = 5 * time.Second // for a review to arrive
	reviewTime = 8 * time.Second // for all of it; the API server gives up after 10
)

// handler is the webhook: POST /inject.
type handler struct {
	admitter *admitter
	metrics  *metrics
	log      *slog.Logger
	room     *semaphore.Weighted // of maxReviews bytes
	values   *semaphore.Weighted // allValues of them
}

func newHandler(a *admitter, m *metrics, log *slog.Logger) http.Handler {
	h := &handler{admitter: a, metrics: m, log: log, room: newRoom(), values: semaphore.NewWeighted(allValues)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /inject", h.serve)
	return mux
}

func newRoom() *semaphore.Weighted { return semaphore.NewWeighted(maxReviews) }

func (h *handler) serve(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), reviewTime)
	defer cancel()
	status, answer, outcome := h.answer(w, r.WithContext(ctx))
	h.metrics.review(outcome, time.Since(began))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(answer) // the API server went away
}

// answer returns the status, the body and the outcome of a request. The status
// of a review that was understood is 200, whatever it decides.
func (h *handler) answer(w http.ResponseWriter, r *http.Request) (int, []byte, string) {
	req, release, err := h.read(w, r)
	defer release()
	if err != nil {
		e := problem.From(err)
		h.log.Warn("a request that is no review", "error", plain.Clip(e.Error(), maxMessage))
		body, _ := json.Marshal(e) // texts always encode
		return e.Kind().HTTPStatus(), body, malformed
	}
	answer, outcome := h.admitter.review(r.Context(), req)
	level := slog.LevelInfo
	if outcome == refused {
		level = slog.LevelWarn
	}
	attrs := []any{"outcome", outcome, "namespace", plain.Clip(req.Namespace, 80), "pod", plain.Clip(req.Name, 260)}
	if answer.Result != nil {
		attrs = append(attrs, "reason", answer.Result.Message)
	}
	if outcome != untouched {
		h.log.Log(r.Context(), level, "review", attrs...)
	}
	body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: reviewType, Response: answer})
	if err != nil { // maps and texts always encode
		return http.StatusInternalServerError, nil, malformed
	}
	return http.StatusOK, body, outcome
}

// read returns the request in the body of r. release gives back the room that
// the body and what is read of it take.
func (h *handler) read(w http.ResponseWriter, r *http.Request) (req *admissionv1.AdmissionRequest, release func(), err error) {
	release = func() {}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil || kind != "application/json":
		return nil, release, problem.New("KUB-073", "wanted application/json, got %q", plain.Clip(kind, 80))
	case r.ContentLength < 0:
		return nil, release, problem.New("KUB-073", "wanted a body whose length is said beforehand")
	case r.ContentLength > maxReview:
		return nil, release, problem.New("KUB-081", "the review has %d bytes, limit %d", r.ContentLength, maxReview)
	}
	if err := h.room.Acquire(r.Context(), r.ContentLength); err != nil {
		return nil, release, problem.New("KUB-082", "reviews of %d bytes in all are being answered", maxReviews)
	}
	release = func() { h.room.Release(r.ContentLength) }
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // the server's own limit stands where it cannot be set
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
	if err != nil {
		return nil, release, problem.Because(err, "KUB-073", "reading the review")
	}
	values := int64(countValues(body))
	if values > maxValues {
		return nil, release, problem.New("KUB-081", "the review has %d values, limit %d", values, maxValues)
	}
	if err := h.values.Acquire(r.Context(), values); err != nil {
		return nil, release, problem.New("KUB-082", "reviews of %d values in all are being answered", allValues)
	}
	release = func() { h.values.Release(values); h.room.Release(r.ContentLength) }
	req, err = parseReview(body)
	return req, release, err
}

// countValues returns how many values a JSON document can have at most: each but
// the first stands after a bracket, a brace or a comma, outside of texts.
func countValues(body []byte) (n int) {
	text := false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case c == '"':
			text = !text
		case text && c == '\\':
			i++
		case !text && (c == ',' || c == '[' || c == '{'):
			n++
		}
	}
	return n + 1
}

// reviewType is the one kind of document that is understood.
var reviewType = metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}

func parseReview(body []byte) (*admissionv1.AdmissionRequest, error) {
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, problem.Because(err, "KUB-073", "the review")
	}
	switch {
	case review.APIVersion != reviewType.APIVersion || review.Kind != reviewType.Kind:
		return nil, problem.New("KUB-073", "wanted an AdmissionReview of %s, got %s of %s", reviewType.APIVersion,
			plain.Clip(fmt.Sprintf("%q", review.Kind), 80), plain.Clip(fmt.Sprintf("%q", review.APIVersion), 80))
	case review.Request == nil || review.Request.UID == "":
		return nil, problem.New("KUB-073", "the review has no request, or one without a uid")
	}
	return review.Request, nil
}
