package api

import (
	"crypto/ecdsa"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// openapi.json is made from the route table and the types of apiv1.
//
//go:generate go test -run OpenAPI -update .
//go:embed openapi.json
var openAPI []byte

const maxPage = 1000 // entries of a page

// route is one resource of the API. The table is what the server, the OpenAPI
// document and its test are made of.
type route struct {
	path    string // as http.ServeMux takes it
	methods map[string]handler
	query   []string // parameters of GET
}

type handler func(s *clientAPI, w http.ResponseWriter, r *http.Request) error

var routes = []route{
	{"/v1/attestation", map[string]handler{"GET": (*clientAPI).attestation}, []string{"nonce"}},
	{"/v1/manifest", map[string]handler{"GET": (*clientAPI).manifest, "PUT": (*clientAPI).setManifest}, []string{"revision"}},
	{"/v1/manifest/history", map[string]handler{"GET": (*clientAPI).history}, []string{"from", "limit"}},
	{"/v1/proposals", map[string]handler{"GET": (*clientAPI).proposals}, nil},
	{"/v1/proposals/{digest}", map[string]handler{"GET": (*clientAPI).proposal, "DELETE": (*clientAPI).endProposal}, nil},
	{"/v1/proposals/{digest}/document", map[string]handler{"GET": (*clientAPI).proposedDocument}, nil},
	{"/v1/proposals/{digest}/approvals", map[string]handler{"POST": (*clientAPI).approve, "DELETE": (*clientAPI).withdrawApproval}, nil},
	{"/v1/manifest/acceptance", map[string]handler{"GET": (*clientAPI).acceptance}, []string{"size"}},
	{"/v1/status", map[string]handler{"GET": (*clientAPI).status}, nil},
	{"/v1/marbles", map[string]handler{"GET": (*clientAPI).marbles}, []string{"after", "limit"}},
	{"/v1/marbles/{name}", map[string]handler{"GET": (*clientAPI).marble}, nil},
	{"/v1/decisions", map[string]handler{"GET": (*clientAPI).decisions}, []string{"marble", "limit"}},
	{"/v1/decisions/{marble}/{id}", map[string]handler{"GET": (*clientAPI).decision}, nil},
	{"/v1/decisions/{marble}/{id}/basis", map[string]handler{"GET": (*clientAPI).basis}, nil},
	{"/v1/plan", map[string]handler{"POST": (*clientAPI).plan}, nil},
	{"/v1/floors", map[string]handler{"GET": (*clientAPI).floors}, nil},
	{"/v1/floors/{platform}", map[string]handler{"GET": (*clientAPI).floor, "PUT": (*clientAPI).raiseFloor}, nil},
	{"/v1/secrets", map[string]handler{"GET": (*clientAPI).secretList}, []string{"after", "limit"}},
	{"/v1/secrets/{name}", map[string]handler{"GET": (*clientAPI).secret, "PUT": (*clientAPI).setSecret}, nil},
	{"/v1/secrets/{name}/reveal", map[string]handler{"POST": (*clientAPI).revealSecret}, nil},
	{"/v1/secrets/{name}/rotate", map[string]handler{"POST": (*clientAPI).rotateSecret}, nil},
	{"/v1/revocations", map[string]handler{"GET": listIncidents(apiv1.Revocation), "POST": revoke(apiv1.Revocation)}, nil},
	{"/v1/revocations/{id}", map[string]handler{"DELETE": lift(apiv1.Revocation)}, nil},
	{"/v1/quarantine", map[string]handler{"GET": listIncidents(apiv1.Quarantine), "POST": revoke(apiv1.Quarantine)}, nil},
	{"/v1/quarantine/{id}", map[string]handler{"DELETE": lift(apiv1.Quarantine)}, nil},
	{"/v1/break-glass", map[string]handler{"GET": listIncidents(apiv1.BreakGlass), "POST": (*clientAPI).breakGlass}, nil},
	{"/v1/break-glass/{id}", map[string]handler{"DELETE": lift(apiv1.BreakGlass)}, nil},
	{"/v1/lineage", map[string]handler{"GET": (*clientAPI).lineage}, []string{"kind", "name", "instance"}},
	{"/v1/lineage/rotate", map[string]handler{"POST": (*clientAPI).rotateTouched}, nil},
	{"/v1/endorsements", map[string]handler{"GET": (*clientAPI).endorsements}, nil},
	{"/v1/endorsements/bundle", map[string]handler{"GET": (*clientAPI).exportEndorsements, "PUT": (*clientAPI).importEndorsements}, nil},
	{"/v1/audit", map[string]handler{"GET": (*clientAPI).audit}, []string{"from", "limit"}},
	{"/v1/log/checkpoint", map[string]handler{"GET": (*clientAPI).checkpoint}, []string{"witnessed"}},
	{"/v1/log/key", map[string]handler{"GET": (*clientAPI).logKey}, nil},
	{"/v1/log/tile/{path...}", map[string]handler{"GET": (*clientAPI).tile}, nil},
	{"/v1/log/proof", map[string]handler{"GET": (*clientAPI).inclusion}, []string{"index", "size"}},
	{"/v1/log/consistency", map[string]handler{"GET": (*clientAPI).consistency}, []string{"older", "size"}},
	{"/v1/ca", map[string]handler{"GET": (*clientAPI).cas}, nil},
	{"/v1/ca/rotate", map[string]handler{"POST": (*clientAPI).rotateCA}, nil},
	{"/v1/roots", map[string]handler{"GET": (*clientAPI).roots}, nil},
	{"/v1/backup", map[string]handler{"GET": (*clientAPI).backup}, nil},
	{"/v1/recovery", map[string]handler{"GET": (*clientAPI).recoveryStatus}, nil},
	{"/v1/recovery/attestation", map[string]handler{"GET": (*clientAPI).recoveryStatement}, []string{"nonce", "purpose"}},
	{"/v1/recovery/shares", map[string]handler{"POST": (*clientAPI).takeShare}, nil},
	{"/v1/replicas/challenge", map[string]handler{"POST": (*clientAPI).challengeReplica}, nil},
	{"/v1/replicas", map[string]handler{"POST": (*clientAPI).admitReplica}, nil},
	{"/v1/bundle", map[string]handler{"GET": (*clientAPI).bundle}, nil},
	{"/v1/bundle.json", map[string]handler{"GET": (*clientAPI).spiffeBundle}, nil},
	{"/v1/openapi.json", map[string]handler{"GET": (*clientAPI).openAPI}, nil},
}

func answer(w http.ResponseWriter, v any) error { return answerWith(w, http.StatusOK, v) }

func answerWith(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	write(w, status, body)
	return nil
}

func (s *clientAPI) attestation(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "nonce")
	if err != nil {
		return err
	}
	nonce, err := nonce(q, apiv1.NonceSize)
	if err != nil {
		return err
	}
	conn, _ := r.Context().Value(connKey{}).(*gated)
	if conn == nil || conn.served.Load() == nil {
		return problem.New("CRD-110", "a statement is given over TLS only")
	}
	if ok, after := s.statements.take(conn.host); !ok {
		retryAfter(w, after)
		return problem.New("CRD-115", "too many statements were asked for from this address")
	}
	statement, err := s.c.Attest(r.Context(), nonce, *conn.served.Load())
	if err != nil {
		return err
	}
	return answer(w, statement)
}

func (s *clientAPI) manifest(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "revision")
	if err != nil {
		return err
	}
	if n, err := number(q, "revision", 0, 1<<31-1); err != nil || q.Has("revision") {
		if err != nil {
			return err
		}
		return s.revision(w, r, n)
	}
	m, err := s.c.Manifest(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(m.Digest))
	return answer(w, m)
}

// acceptance counts as a statement: it goes into a bundle beside one.
func (s *clientAPI) acceptance(w http.ResponseWriter, r *http.Request) error {
	n, err := numbers(r, "size")
	if err != nil {
		return err
	}
	if err := s.mayAsk(w, r); err != nil {
		return err
	}
	a, err := s.c.Acceptance(r.Context(), n[0])
	if err != nil {
		return err
	}
	return answer(w, a)
}

func etag(digest attest.Hex) string { return `"` + digest.String() + `"` }

func (s *clientAPI) status(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	st, err := s.c.Status(r.Context())
	if err != nil {
		return err
	}
	return answer(w, st)
}

func (s *clientAPI) marbles(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "after", "limit")
	if err != nil {
		return err
	}
	n, err := limit(q, 100)
	if err != nil {
		return err
	}
	page, err := s.c.Marbles(r.Context(), q.Get("after"), n)
	if err != nil {
		return err
	}
	if s.user(r) == nil {
		for i := range page.Marbles {
			page.Marbles[i] = page.Marbles[i].Redacted()
		}
	}
	return answer(w, page)
}

func (s *clientAPI) marble(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	m, err := s.c.Marble(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	if s.user(r) == nil {
		m = m.Redacted()
	}
	return answer(w, m)
}

// decisions, and one of them, count as a statement for strangers: the log is
// searched.
func (s *clientAPI) decisions(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "marble", "limit")
	if err != nil {
		return err
	}
	n, err := limit(q, 50)
	if err != nil {
		return err
	}
	stranger := s.user(r) == nil
	if stranger {
		if err := s.mayAsk(w, r); err != nil {
			return err
		}
	}
	all, err := s.c.Decisions(r.Context(), q.Get("marble"), n)
	if err != nil {
		return err
	}
	if all == nil {
		all = []apiv1.Decision{}
	}
	if stranger {
		for i := range all {
			all[i] = all[i].Redacted()
		}
	}
	return answer(w, apiv1.Decisions{Decisions: all})
}

func (s *clientAPI) decision(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	stranger := s.user(r) == nil
	if stranger {
		if err := s.mayAsk(w, r); err != nil {
			return err
		}
	}
	d, err := s.c.Decision(r.Context(), r.PathValue("marble")+"/"+r.PathValue("id"))
	if err != nil {
		return err
	}
	if stranger {
		d = d.Redacted()
	}
	return answer(w, d)
}

func (s *clientAPI) audit(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "from", "limit")
	if err != nil {
		return err
	}
	n, err := limit(q, 100)
	if err != nil {
		return err
	}
	from, err := number(q, "from", 0, 1<<63)
	if err != nil {
		return err
	}
	stranger := s.user(r) == nil
	if stranger {
		if err := s.mayAsk(w, r); err != nil {
			return err
		}
	}
	page, err := s.c.Audit(r.Context(), from, n, stranger)
	if err != nil {
		return err
	}
	return answer(w, page)
}

func (s *clientAPI) bundle(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var body []byte
	for _, der := range s.c.Bundle() {
		body = append(body, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	write(w, http.StatusOK, body)
	return nil
}

// jwk is a trust anchor of a SPIFFE bundle (SPIFFE Trust Domain and Bundle,
// section 4).
type jwk struct {
	Use   string   `json:"use"`
	Type  string   `json:"kty"`
	Curve string   `json:"crv"`
	X     string   `json:"x"`
	Y     string   `json:"y"`
	Chain [][]byte `json:"x5c"` // base64 of DER
}

func (s *clientAPI) spiffeBundle(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	keys := []jwk{}
	for _, der := range s.c.Bundle() {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		key, ok := cert.PublicKey.(*ecdsa.PublicKey)
		if !ok {
			return problem.New("CRD-001", "a trust anchor has a key of type %T", cert.PublicKey)
		}
		point, err := key.Bytes() // 4, x, y
		if err != nil {
			return err
		}
		half := (len(point) - 1) / 2
		keys = append(keys, jwk{Use: "x509-svid", Type: "EC", Curve: key.Params().Name, Chain: [][]byte{der},
			X: base64.RawURLEncoding.EncodeToString(point[1 : 1+half]), Y: base64.RawURLEncoding.EncodeToString(point[1+half:])})
	}
	return answer(w, map[string]any{"keys": keys, "spiffe_refresh_hint": 300})
}

func (s *clientAPI) openAPI(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	write(w, http.StatusOK, openAPI)
	return nil
}

// ifMatch reads the one entity tag of If-Match; absent gives "".
func ifMatch(r *http.Request) (string, error) {
	values := r.Header.Values("If-Match")
	if len(values) == 0 {
		return "", nil
	}
	tag, quoted := strings.CutPrefix(values[0], `"`)
	tag, closed := strings.CutSuffix(tag, `"`)
	var digest attest.Hex
	if len(values) > 1 || !quoted || !closed || digest.UnmarshalText([]byte(tag)) != nil || len(digest) != 32 {
		return "", problem.New("CRD-110", "header If-Match: wanted a digest in quotes, got %q", clip(strings.Join(values, ", "), 80))
	}
	return digest.String(), nil
}
