package injector

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/internal/plain"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

const (
	// manifestAge is how old what we know of the manifest may be. A marble that it
	// does not have is looked for anew in any case.
	manifestAge = 3 * time.Second
	maxMessage  = 1000 // bytes of a refusal; an event holds 1,024
	maxWarning  = 250  // bytes; clients cut off what is longer
)

// Outcomes of a review, for the metric.
const (
	injected  = "injected"
	untouched = "untouched"
	refused   = "refused"
	malformed = "malformed"
)

// admitter answers reviews. It is safe for concurrent use.
type admitter struct {
	settings  inject.Settings
	manifests Manifests
	now       func() time.Time
}

// review answers one request: what it is allowed, with the patch. The request
// holds what a user wrote; every text of it is clipped before it is said again.
func (a *admitter) review(ctx context.Context, req *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, string) {
	answer := &admissionv1.AdmissionResponse{UID: req.UID}
	patch, err := a.patch(ctx, req, answer)
	switch {
	case err != nil:
		answer.Result = refusal(problem.From(err))
		return answer, refused
	case patch == nil:
		answer.Allowed = true
		return answer, untouched
	}
	kind := admissionv1.PatchTypeJSONPatch
	answer.Allowed, answer.Patch, answer.PatchType = true, patch, &kind
	return answer, injected
}

// patch returns what makes the request's pod a marble's; nil for a pod that is
// none.
func (a *admitter) patch(ctx context.Context, req *admissionv1.AdmissionRequest, answer *admissionv1.AdmissionResponse) ([]byte, error) {
	if req.Kind != (metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}) || req.SubResource != "" || req.Operation != admissionv1.Create {
		return nil, problem.New("KUB-073", "wanted the creation of a v1 Pod, got %s of %s %s", plain.Clip(string(req.Operation), 40),
			plain.Clip(req.Kind.Version, 40), plain.Clip(req.Kind.Kind+"/"+req.SubResource, 80))
	}
	var pod corev1.Pod
	if err := json.Unmarshal(req.Object.Raw, &pod); err != nil {
		return nil, problem.Because(err, "KUB-073", "the pod in the review")
	}
	name, ok := inject.Labelled(&pod)
	if !ok {
		return nil, nil
	}
	marble, err := a.marble(ctx, name, answer)
	if err != nil {
		return nil, err
	}
	changed, err := inject.Pod(&pod, marble, a.settings)
	if err != nil {
		return nil, err
	}
	for _, w := range changed.Warnings {
		answer.Warnings = append(answer.Warnings, plain.Clip("ashlar: "+w, maxWarning))
	}
	return diff(&pod, changed.Pod)
}

// marble returns what the manifest in force says of a marble. What the manifest
// is and how old goes into the answer.
func (a *admitter) marble(ctx context.Context, name string, answer *admissionv1.AdmissionResponse) (inject.Marble, error) {
	seen, err := a.manifests.Manifest(ctx, manifestAge)
	if problem.CodeOf(err) == "KUB-075" || err == nil && !seen.has(name) { // it may have been set a moment ago
		seen, err = a.manifests.Manifest(ctx, 0)
	}
	if err != nil {
		return inject.Marble{}, err
	}
	answer.AuditAnnotations = map[string]string{"manifest": seen.Manifest.Digest().String()}
	if seen.Trouble != nil {
		answer.Warnings = append(answer.Warnings, a.warning(seen))
	}
	m, err := inject.FromManifest(seen.Manifest, name)
	if err != nil {
		return m, seen.blame(err)
	}
	return m, nil
}

func (s Seen) has(marble string) bool {
	_, ok := s.Manifest.Marbles[marble]
	return ok
}

// blame says in a refusal which manifest it rests on.
func (s Seen) blame(err error) error {
	e := *problem.From(err)
	which := "manifest revision %d (%s): %s"
	if s.Trouble != nil {
		which = "manifest revision %d (%s), the last that was seen: %s"
	}
	e.Detail = fmt.Sprintf(which, s.Revision, s.Manifest.Digest().Short(), e.Detail)
	return &e
}

func (a *admitter) warning(seen Seen) string {
	return plain.Clip(fmt.Sprintf("ashlar: the coordinator does not answer; judged by manifest revision %d (%s), in force %s ago: %s",
		seen.Revision, seen.Manifest.Digest().Short(), a.now().Sub(seen.At).Round(time.Second), problem.From(seen.Trouble).Error()), maxWarning)
}

// refusal is what the creator of the pod is told: in a ReplicaSet's case the
// event FailedCreate, of which people read the beginning.
func refusal(e *problem.Error) *metav1.Status {
	next := cmp.Or(e.Next, problem.Lookup(e.Code).Next)
	st := &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: plain.Clip(fmt.Sprintf("%s %s; next: %s", e.Code, e.Detail, next), maxMessage)}
	if e.Kind() == problem.Invalid || e.Kind() == problem.Usage {
		st.Code, st.Reason = http.StatusUnprocessableEntity, metav1.StatusReasonInvalid
	}
	return st
}

// diff returns the JSON patch from one pod to another; an empty one is a patch
// too. Both are written by the same types, so that fields that a newer API
// server knows and we do not are left alone.
func diff(from, to *corev1.Pod) ([]byte, error) {
	before, err := json.Marshal(from)
	if err != nil {
		return nil, fmt.Errorf("encoding the pod: %w", err)
	}
	after, err := json.Marshal(to)
	if err != nil {
		return nil, fmt.Errorf("encoding the pod: %w", err)
	}
	return inject.Patch(before, after)
}
