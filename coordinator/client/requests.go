package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxAnswer is the size limit of an answer, in bytes: a manifest of 4 MiB is
// 5.4 MiB in base64.
const maxAnswer = 8 << 20

// Manifest returns the manifest in force with the bytes that were uploaded.
func (c *Client) Manifest(ctx context.Context) (apiv1.Manifest, error) {
	return get[apiv1.Manifest](ctx, c, "/v1/manifest", nil)
}

// Plan asks who would lose or get an identity if what req says were so. Any user
// of the manifest may.
func (c *Client) Plan(ctx context.Context, req apiv1.PlanRequest) (apiv1.Plan, error) {
	return send[apiv1.Plan](ctx, c, http.MethodPost, "/v1/plan", nil, req)
}

// Floors returns what platforms must demand at least.
func (c *Client) Floors(ctx context.Context) (apiv1.Floors, error) {
	return get[apiv1.Floors](ctx, c, "/v1/floors", nil)
}

// Floor returns the floor of a platform; one that was never raised has no
// digest.
func (c *Client) Floor(ctx context.Context, platform string) (apiv1.PlatformFloor, error) {
	return get[apiv1.PlatformFloor](ctx, c, "/v1/floors/"+url.PathEscape(platform), nil)
}

// RaiseFloor raises the floor of a platform. ifMatch is the digest of the floor
// that it replaces, empty only for the first.
func (c *Client) RaiseFloor(ctx context.Context, platform string, floor attest.Floor, ifMatch attest.Hex) (apiv1.RaiseResult, error) {
	header := http.Header{}
	if len(ifMatch) > 0 {
		header.Set("If-Match", `"`+ifMatch.String()+`"`)
	}
	return send[apiv1.RaiseResult](ctx, c, http.MethodPut, "/v1/floors/"+url.PathEscape(platform), header, floor)
}

// Status returns the state of the deployment in one bounded document.
func (c *Client) Status(ctx context.Context) (apiv1.Status, error) {
	return get[apiv1.Status](ctx, c, "/v1/status", nil)
}

// Marbles returns the marbles after a name, at most limit; zero leaves the
// limit to the coordinator.
func (c *Client) Marbles(ctx context.Context, after string, limit int) (apiv1.Marbles, error) {
	q := url.Values{}
	setText(q, "after", after)
	setNumber(q, "limit", uint64(max(limit, 0)))
	return get[apiv1.Marbles](ctx, c, "/v1/marbles", q)
}

// Marble returns one marble with its live instances.
func (c *Client) Marble(ctx context.Context, name string) (apiv1.Marble, error) {
	return get[apiv1.Marble](ctx, c, "/v1/marbles/"+url.PathEscape(name), nil)
}

// Decisions returns the newest decisions, newest first, of one marble or of
// all.
func (c *Client) Decisions(ctx context.Context, marble string, limit int) ([]apiv1.Decision, error) {
	q := url.Values{}
	setText(q, "marble", marble)
	setNumber(q, "limit", uint64(max(limit, 0)))
	d, err := get[apiv1.Decisions](ctx, c, "/v1/decisions", q)
	return d.Decisions, err
}

// Decision returns one decision by its id, such as "web/7f2c19ab": in full to a
// user of the manifest, and redacted to others.
func (c *Client) Decision(ctx context.Context, id string) (apiv1.Decision, error) {
	path, err := decisionPath(id)
	if err != nil {
		return apiv1.Decision{}, err
	}
	return get[apiv1.Decision](ctx, c, path, nil)
}

// Basis returns what a decision was made from, where it is kept. Any user of the
// manifest may ask.
func (c *Client) Basis(ctx context.Context, id string) (apiv1.Basis, error) {
	path, err := decisionPath(id)
	if err != nil {
		return apiv1.Basis{}, err
	}
	return get[apiv1.Basis](ctx, c, path+"/basis", nil)
}

func decisionPath(id string) (string, error) {
	marble, rest, ok := strings.Cut(id, "/")
	if !ok || marble == "" || rest == "" {
		return "", problem.New("CRD-110", "%q is no decision: wanted MARBLE/ID, such as web/7f2c19ab", id)
	}
	return "/v1/decisions/" + url.PathEscape(marble) + "/" + url.PathEscape(rest), nil
}

// Audit returns records of the log from a sequence number on.
func (c *Client) Audit(ctx context.Context, from uint64, limit int) (apiv1.Audit, error) {
	q := url.Values{}
	setNumber(q, "from", from)
	setNumber(q, "limit", uint64(max(limit, 0)))
	return get[apiv1.Audit](ctx, c, "/v1/audit", q)
}

// Bundle returns the trust anchors of the deployment, DER.
func (c *Client) Bundle(ctx context.Context) ([][]byte, error) {
	body, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/bundle"})
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for block, rest := pem.Decode(body); block != nil; block, rest = pem.Decode(rest) {
		out = append(out, block.Bytes)
	}
	if len(out) == 0 {
		return nil, problem.New("CRD-107", "the bundle holds no certificate")
	}
	return out, nil
}

// OpenAPI returns the description of the API, an OpenAPI 3.1 document.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	return c.do(ctx, call{method: http.MethodGet, path: "/v1/openapi.json"})
}

func setText(q url.Values, key, value string) {
	if value != "" {
		q.Set(key, value)
	}
}

func setNumber(q url.Values, key string, n uint64) {
	if n > 0 {
		q.Set(key, strconv.FormatUint(n, 10))
	}
}

func get[T any](ctx context.Context, c *Client, path string, q url.Values) (T, error) {
	var out T
	body, err := c.do(ctx, call{method: http.MethodGet, path: path, query: q})
	if err != nil {
		return out, err
	}
	return out, decode(body, &out)
}

// send sends a document as JSON.
func send[T any](ctx context.Context, c *Client, method, path string, header http.Header, document any) (T, error) {
	var out T
	raw, err := json.Marshal(document)
	if err != nil {
		return out, problem.Because(err, "CRD-110", "encoding the request")
	}
	if header == nil {
		header = http.Header{}
	}
	header.Set("Content-Type", "application/json")
	body, err := c.do(ctx, call{method: method, path: path, header: header, body: raw})
	if err != nil {
		return out, err
	}
	return out, decode(body, &out)
}

func decode(body []byte, out any) error {
	if err := json.Unmarshal(body, out); err != nil {
		return problem.Because(err, "CRD-107", "reading the answer")
	}
	return nil
}

type call struct {
	method, path string
	query        url.Values
	header       http.Header
	body         []byte
	limit        int64 // of the answer, in bytes; maxAnswer if zero
}

// do makes a call. Where the network fails it is made again: any call of which
// nothing was sent, and a read in any case. A write that was sent may have
// been carried out.
func (c *Client) do(ctx context.Context, r call) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	for pauses := (rests{}); ; {
		body, sent, err := c.once(ctx, r)
		switch write := r.method != http.MethodGet; {
		case err == nil || !lost(err, anywhere):
			return body, err
		case sent && write:
			return nil, problem.From(err).WithNext("it may have been done: look before you send it again")
		case !pauses.rest(ctx):
			return nil, err
		}
	}
}

// once makes a call once. It reports whether anything of it may have been sent:
// a connection that could not be opened or verified carries no request.
func (c *Client) once(ctx context.Context, r call) (_ []byte, sent bool, _ error) {
	target := "https://" + c.addr + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var sending io.Reader
	if r.body != nil {
		sending = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, sending)
	if err != nil {
		return nil, false, problem.Because(err, "CRD-110", "address %q", c.addr)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, problem.CodeOf(err) == "", c.because(err)
	}
	defer resp.Body.Close()
	body, err := readBody(resp, cmp.Or(r.limit, maxAnswer))
	return body, true, err
}

// because finds the refusal behind a failed request: where the request ran out
// of time while its connection was being verified, net/http knows only the
// time-out.
func (c *Client) because(err error) error {
	if problem.CodeOf(err) == "" {
		c.mu.Lock()
		defer c.mu.Unlock()
		if problem.CodeOf(c.refusal) != "" {
			return c.refusal
		}
	}
	return unreachable(err, c.addr)
}

// Limits on what a problem of the coordinator's may say, in bytes.
const (
	maxDetail   = 4 << 10
	maxInstance = 256
)

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// readBody returns the body of an answer of 2xx, or the problem that another
// status carries (RFC 9457).
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, unreachable(err, resp.Request.URL.Host)
	}
	if int64(len(body)) > limit {
		return nil, problem.New("CRD-108", "over %d bytes", limit)
	}
	if resp.StatusCode/100 == 2 {
		return body, nil
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var p problem.Error
	if kind == "application/problem+json" && json.Unmarshal(body, &p) == nil && p.Code != "" {
		p.Detail, p.Next, p.Instance = clip(p.Detail, maxDetail), clip(p.Next, maxDetail), clip(p.Instance, maxInstance)
		return nil, &p
	}
	return nil, problem.New("CRD-107", "status %d without a problem document", resp.StatusCode)
}
