package injector

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	jsonpatch "github.com/evanphx/json-patch"
	"golang.org/x/sync/semaphore"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// fixed is what the coordinator is said to have.
type fixed struct {
	seen Seen
	err  error
}

func (f fixed) Manifest(context.Context, time.Duration) (Seen, error) { return f.seen, f.err }

func seenOf(t testing.TB, marbles ...string) Seen {
	t.Helper()
	m, diags := manifest.Parse(document(marbles...))
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	return Seen{Manifest: m, Revision: 4, At: noon}
}

func settings() inject.Settings {
	return inject.Settings{Coordinator: "ashlar-mesh.mesh.svc:2001", Image: "ashlar-marble:1", Policy: "{}", Defaults: map[string]string{"sim:sgx": "sim"}}
}

func handlerOf(m Manifests) http.Handler {
	return newHandler(&admitter{settings: settings(), manifests: m, now: func() time.Time { return noon.Add(time.Hour) }}, newMetrics("test"), slog.New(slog.DiscardHandler))
}

func podOf(labels map[string]string) *corev1.Pod {
	return &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: labels, Annotations: map[string]string{inject.TEE: "sim:sgx"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "web:1", Command: []string{"/app/web"}}}}}
}

// review returns an AdmissionReview as JSON; edits change its request.
func review(t testing.TB, pod any, edits ...func(*admissionv1.AdmissionRequest)) []byte {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	req := &admissionv1.AdmissionRequest{UID: "r1", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Operation: admissionv1.Create, Namespace: "shop", Object: runtime.RawExtension{Raw: raw}}
	for _, edit := range edits {
		edit(req)
	}
	body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: reviewType, Request: req})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func post(h http.Handler, kind string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/inject", body)
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestReviews(t *testing.T) {
	web := map[string]string{inject.Label: "web"}
	stale := seenOf(t, "web")
	stale.Trouble = problem.New("CRD-105", "dial tcp 10.0.0.1:4433: connection refused")
	unreachable := fixed{err: problem.New("KUB-076", "the coordinator cannot be asked for its manifest: refused")}
	for _, c := range []struct {
		name      string
		manifests Manifests
		body      []byte
		outcome   string
		code      int32  // of a refusal
		begins    string // the refusal
		warning   string // part of the only one
	}{
		{"injected", fixed{seen: seenOf(t, "web")}, review(t, podOf(web)), injected, 0, "", ""},
		{"by an older manifest", fixed{seen: stale}, review(t, podOf(web)), injected, 0, "", "in force 1h0m0s ago: CRD-105"},
		{"no label", unreachable, review(t, podOf(nil)), untouched, 0, "", ""},
		{"kept out", unreachable, review(t, podOf(map[string]string{inject.Label: "web", inject.Injection: "disabled"})), untouched, 0, "", ""},
		{"unknown marble", fixed{seen: seenOf(t, "web", "cart")}, review(t, podOf(map[string]string{inject.Label: "wbe"})), refused, 403, "KUB-052 manifest revision 4 (", ""},
		{"unknown to an older manifest", fixed{seen: stale}, review(t, podOf(map[string]string{inject.Label: "pay"})), refused, 403, "KUB-052 manifest revision 4 (", ""},
		{"empty label", fixed{seen: seenOf(t, "web")}, review(t, podOf(map[string]string{inject.Label: ""})), refused, 422, "KUB-051 manifest revision 4 (", ""},
		{"no coordinator", unreachable, review(t, podOf(web)), refused, 403, "KUB-076 the coordinator cannot be asked for its manifest: refused; next: ", ""},
		{"no manifest", fixed{err: problem.New("KUB-075", "the coordinator has no manifest yet")}, review(t, podOf(web)), refused, 403, "KUB-075 the coordinator has no manifest yet; next: ashlar manifest set", ""},
		{"an annotation that is wrong", fixed{seen: seenOf(t, "web")}, review(t, func() *corev1.Pod { p := podOf(web); p.Annotations[inject.Container] = "none"; return p }()), refused, 422, "KUB-055 ", ""},
		{"no pod", fixed{}, review(t, []int{1}), refused, 422, "KUB-073 the pod in the review", ""},
		{"another kind", fixed{}, review(t, podOf(web), func(r *admissionv1.AdmissionRequest) { r.Kind.Kind = "Deployment" }), refused, 422, "KUB-073 wanted the creation of a v1 Pod, got CREATE of v1 Deployment/", ""},
		{"an update", fixed{}, review(t, podOf(web), func(r *admissionv1.AdmissionRequest) { r.Operation = admissionv1.Update }), refused, 422, "KUB-073 wanted the creation of a v1 Pod, got UPDATE", ""},
		{"a part of a pod", fixed{}, review(t, podOf(web), func(r *admissionv1.AdmissionRequest) { r.SubResource = "status" }), refused, 422, "KUB-073 ", ""},
	} {
		w := post(handlerOf(c.manifests), "application/json", bytes.NewReader(c.body))
		var got admissionv1.AdmissionReview
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || got.TypeMeta != reviewType || got.Response == nil || got.Response.UID != "r1" {
			t.Errorf("%s: got %d %s", c.name, w.Code, w.Body)
			continue
		}
		a := got.Response
		if a.Allowed != (c.outcome != refused) || (a.Patch != nil) != (c.outcome == injected) {
			t.Errorf("%s: got allowed %v with patch %q, want %s", c.name, a.Allowed, a.Patch, c.outcome)
		}
		if c.outcome == refused && (a.Result == nil || a.Result.Code != c.code || !strings.HasPrefix(a.Result.Message, c.begins)) {
			t.Errorf("%s: got %+v, want %d %q", c.name, a.Result, c.code, c.begins)
		}
		found := c.warning == ""
		for _, text := range a.Warnings {
			found = found || strings.Contains(text, c.warning)
			if len(text) > maxWarning {
				t.Errorf("%s: a warning of %d bytes", c.name, len(text))
			}
		}
		if !found {
			t.Errorf("%s: got warnings %q, want one with %q", c.name, a.Warnings, c.warning)
		}
	}
}

func TestRefusalsSayThePointAtOnce(t *testing.T) {
	h := handlerOf(fixed{seen: seenOf(t, "web", "cart")})
	w := post(h, "application/json", bytes.NewReader(review(t, podOf(map[string]string{inject.Label: "wbe"}))))
	var got admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	text := got.Response.Result.Message
	for _, part := range []string{"KUB-052", "revision 4", `"wbe"`, "did you mean web?", "next:"} {
		if !strings.Contains(text[:min(200, len(text))], part) {
			t.Errorf("the beginning of %q does not say %q", text, part)
		}
	}
}

// TestAPatchGivesTheInjectedPod, and leaves fields alone that we do not know.
func TestAPatchGivesTheInjectedPod(t *testing.T) {
	var doc map[string]any
	raw, _ := json.Marshal(podOf(map[string]string{inject.Label: "web"}))
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	doc["spec"].(map[string]any)["fieldOfTomorrow"] = map[string]any{"a": 1}
	doc["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["fieldOfTomorrow"] = true
	h := handlerOf(fixed{seen: seenOf(t, "web")})
	once := admitted(t, h, doc)
	spec := once["spec"].(map[string]any)
	if spec["fieldOfTomorrow"] == nil || spec["containers"].([]any)[0].(map[string]any)["fieldOfTomorrow"] != true {
		t.Error("fields that are not known here are gone")
	}
	if spec["initContainers"] == nil || once["metadata"].(map[string]any)["annotations"].(map[string]any)[inject.Injected] == nil {
		t.Errorf("not injected: %v", once)
	}
	a, _ := json.Marshal(once)
	b, _ := json.Marshal(admitted(t, h, once))
	if !bytes.Equal(a, b) {
		t.Errorf("a second review changes it:\n%s\n%s", a, b)
	}
}

// admitted returns the pod after the patch of a review.
func admitted(t *testing.T, h http.Handler, pod map[string]any) map[string]any {
	t.Helper()
	var got admissionv1.AdmissionReview
	if err := json.Unmarshal(post(h, "application/json", bytes.NewReader(review(t, pod))).Body.Bytes(), &got); err != nil || !got.Response.Allowed {
		t.Fatalf("got %v %+v", err, got.Response)
	}
	patch, err := jsonpatch.DecodePatch(got.Response.Patch)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(pod)
	if raw, err = patch.Apply(raw); err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRequestsThatAreNoReview(t *testing.T) {
	good := review(t, podOf(nil))
	for _, c := range []struct {
		name, kind string
		body       io.Reader
		status     int
		code       problem.Code
	}{
		{"not JSON", "application/json", strings.NewReader("hello"), 400, "KUB-073"},
		{"empty", "application/json", strings.NewReader(""), 400, "KUB-073"},
		{"trailing", "application/json", bytes.NewReader(append(bytes.Clone(good), "{}"...)), 400, "KUB-073"},
		{"v1beta1", "application/json", bytes.NewReader(bytes.Replace(good, []byte("admission.k8s.io/v1"), []byte("admission.k8s.io/v1beta1"), 1)), 400, "KUB-073"},
		{"another kind", "application/json", strings.NewReader(`{"apiVersion":"admission.k8s.io/v1","kind":"ConversionReview","request":{"uid":"1"}}`), 400, "KUB-073"},
		{"no request", "application/json", strings.NewReader(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`), 400, "KUB-073"},
		{"no uid", "application/json", strings.NewReader(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}`), 400, "KUB-073"},
		{"another type", "application/yaml", bytes.NewReader(good), 400, "KUB-073"},
		{"no type", "", bytes.NewReader(good), 400, "KUB-073"},
		{"no length", "application/json", io.MultiReader(bytes.NewReader(good)), 400, "KUB-073"},
		{"too large", "application/json", bytes.NewReader(make([]byte, maxReview+1)), 413, "KUB-081"},
		{"too many values", "application/json", bytes.NewReader(containers(maxValues)), 413, "KUB-081"},
	} {
		w := post(handlerOf(fixed{}), c.kind, c.body)
		var got problem.Error
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != c.status || got.Code != c.code {
			t.Errorf("%s: got %d %s, want %d %s", c.name, w.Code, w.Body, c.status, c.code)
		}
	}
	for _, c := range []struct{ method, path string }{{"GET", "/inject"}, {"POST", "/"}, {"POST", "/inject/x"}} {
		w := httptest.NewRecorder()
		handlerOf(fixed{}).ServeHTTP(w, httptest.NewRequest(c.method, c.path, bytes.NewReader(good)))
		if w.Code != 404 && w.Code != 405 {
			t.Errorf("%s %s: got %d", c.method, c.path, w.Code)
		}
	}
}

// TestAStalledClient gets nothing, and others are served meanwhile.
func TestAStalledClient(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(handlerOf(fixed{}))
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{", maxReview)
	resp, err := http.Post(s.URL+"/inject", "application/json", bytes.NewReader(review(t, podOf(nil))))
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("another client: got %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	_ = conn.SetReadDeadline(time.Now().Add(2 * bodyTime))
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(answer, []byte("KUB-073")) {
		t.Errorf("the stalled client: got %q, %v, want a refusal", answer, err)
	}
}

// containers returns a review of a pod with n containers of two bytes each, of
// which the types of Kubernetes make hundreds.
func containers(n int) []byte {
	const pod = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","object":{"spec":{"containers":[%s{}]}}}}`
	return fmt.Appendf(nil, pod, strings.Repeat("{},", n-1))
}

func TestValuesOfAReviewAreCounted(t *testing.T) {
	for text, want := range map[string]int{
		`1`: 1, `[1,1]`: 3, `[{},{}]`: 5, `{"a":[null,"x"],"b":{}}`: 6, `["a,b[{\",{","\\",1]`: 4, ``: 1, `"`: 1, `"\`: 1,
	} {
		if got := countValues([]byte(text)); got != want {
			t.Errorf("%s: got %d, want %d", text, got, want)
		}
	}
	big := podOf(map[string]string{inject.Label: "web"})
	for i := range 3000 {
		big.Spec.Containers[0].Env = append(big.Spec.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprintf("V%d", i), Value: "a,b,c{[,,,,,,,,,,,,"})
	}
	if w := post(handlerOf(fixed{seen: seenOf(t, "web")}), "application/json", bytes.NewReader(review(t, big))); w.Code != 200 {
		t.Errorf("a pod of 3,000 variables: got %d %s", w.Code, w.Body)
	}
}

// TestReviewsTogetherAreBounded: over the bound a review waits, and gives up with
// its client.
func TestReviewsTogetherAreBounded(t *testing.T) {
	h := &handler{admitter: &admitter{manifests: fixed{}}, metrics: newMetrics("test"), log: slog.New(slog.DiscardHandler), room: newRoom(), values: semaphore.NewWeighted(allValues)}
	if err := h.room.Acquire(t.Context(), maxReviews); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the client went away"))
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/inject", bytes.NewReader(review(t, podOf(nil))))
	r.Header.Set("Content-Type", "application/json")
	if _, _, err := h.read(httptest.NewRecorder(), r); problem.CodeOf(err) != "KUB-082" {
		t.Errorf("got %v, want KUB-082", err)
	}
}

func FuzzReview(f *testing.F) {
	f.Add(review(f, podOf(map[string]string{inject.Label: "web"})))
	f.Add(review(f, podOf(nil)))
	h := handlerOf(fixed{seen: seenOf(f, "web")})
	f.Fuzz(func(t *testing.T, body []byte) {
		w := post(h, "application/json", bytes.NewReader(body))
		var got admissionv1.AdmissionReview
		if w.Code == 200 && (json.Unmarshal(w.Body.Bytes(), &got) != nil || got.Response == nil || !got.Response.Allowed && got.Response.Result == nil) {
			t.Errorf("got %s", w.Body)
		}
	})
}

func BenchmarkReview(b *testing.B) {
	for name, labels := range map[string]map[string]string{"labelled": {inject.Label: "web"}, "unlabelled": nil} {
		b.Run(name, func(b *testing.B) {
			h, body := handlerOf(fixed{seen: seenOf(b, "web")}), review(b, podOf(labels))
			b.ReportAllocs()
			for b.Loop() {
				if w := post(h, "application/json", bytes.NewReader(body)); w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
