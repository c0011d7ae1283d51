package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

var update = flag.Bool("update", false, "write openapi.json")

type object = map[string]any

// operation describes one method of one route. Everything else in the OpenAPI
// document comes from the route table and from the types of apiv1.
type operation struct {
	summary  string
	result   any    // of type apiv1; nil: see content
	content  string // of the answer; application/json if empty
	problems []int
}

var operations = map[string]operation{
	"GET /v1/attestation":                   {"The coordinator's statement about itself, with evidence that binds the nonce, the key of this connection, the root, the manifest and the log.", apiv1.Statement{}, "", []int{400, 429, 503}},
	"GET /v1/manifest":                      {"The manifest in force, with the bytes that were uploaded. ETag is its digest.", apiv1.Manifest{}, "", []int{404}},
	"PUT /v1/manifest":                      {"Put a manifest in force. The body is the manifest. Without a manifest in force anybody may set the first; later ones need a user's client certificate and If-Match with the digest in force. Where the manifest in force wants more users to agree, the answer is 202 with a proposal, which nobody has signed yet.", apiv1.SetResult{}, "", []int{400, 401, 403, 409, 413, 415, 422, 429}},
	"GET /v1/manifest/acceptance":           {"What shows that the log of a statement's checkpoint holds the acceptance of the manifest in force.", apiv1.Acceptance{}, "", []int{400, 404, 429}},
	"GET /v1/status":                        {"The state of the deployment. The size of the answer is bounded.", apiv1.Status{}, "", nil},
	"GET /v1/marbles":                       {"Marbles with their live instances, ordered by name.", apiv1.Marbles{}, "", []int{400}},
	"GET /v1/marbles/{name}":                {"One marble with its live instances.", apiv1.Marble{}, "", []int{404}},
	"GET /v1/decisions":                     {"The newest decisions about activations and renewals, newest first.", apiv1.Decisions{}, "", []int{400}},
	"GET /v1/decisions/{marble}/{id}":       {"One decision with its whole verdict.", apiv1.Decision{}, "", []int{404}},
	"GET /v1/decisions/{marble}/{id}/basis": {"What a decision was made from, so that anybody can make it again: for users of the manifest. Kept are the newest decision of each live instance and the newest refusals of each marble.", apiv1.Basis{}, "", []int{401, 403, 404}},
	"POST /v1/plan":                         {"Who would lose or get an identity if something else were so. For users of the manifest. Nothing is changed.", apiv1.Plan{}, "", []int{400, 401, 403, 404, 413, 415, 422, 429}},
	"GET /v1/floors":                        {"What platforms must demand at least, whatever the manifest says.", apiv1.Floors{}, "", nil},
	"GET /v1/floors/{platform}":             {"The floor of one platform. ETag is its digest; one that was never raised has none.", apiv1.PlatformFloor{}, "", []int{404}},
	"PUT /v1/floors/{platform}":             {"Raise the floor of a platform. The body is the whole floor; it must demand at least what the one in force does. Needs the right raiseFloor:PLATFORM, and If-Match unless it is the platform's first.", apiv1.RaiseResult{}, "", []int{400, 401, 403, 404, 409, 413, 415, 422, 429}},
	"GET /v1/endorsements":                  {"What the coordinator has of the vendors' documents, until when they count, and the newest that decisions rested on. For users of the manifest.", apiv1.Endorsements{}, "", []int{401}},
	"GET /v1/endorsements/bundle":           {"All documents in one file, for machines that reach no vendor. For users of the manifest.", nil, "application/json", []int{401}},
	"PUT /v1/endorsements/bundle":           {"Import a bundle. Each document must be signed by its vendor, of its platform, and not older than the one at hand; the answer says what was refused. Needs the right manageEndorsements.", apiv1.ImportedEndorsements{}, "", []int{400, 401, 403, 404, 413, 415, 422, 429}},
	"GET /v1/audit":                         {"Records of the audit log in order.", apiv1.Audit{}, "", []int{400}},
	"GET /v1/log/checkpoint":                {"The newest checkpoint of the log as a signed note (c2sp.org/tlog-checkpoint), with the co-signatures of the witnesses that have signed this very one; witnessed, the newest that has any.", nil, "text/plain; charset=utf-8", []int{400, 404}},
	"GET /v1/log/key":                       {"The verifier key of the log (c2sp.org/signed-note).", nil, "text/plain; charset=utf-8", nil},
	"GET /v1/log/tile/{path...}":            {"A tile of hashes or entries (c2sp.org/tlog-tiles). It never changes.", nil, "application/octet-stream", []int{404, 429}},
	"GET /v1/log/proof":                     {"An entry, and the proof that the log of the first size entries holds it (RFC 6962).", apiv1.Acceptance{}, "", []int{400, 404, 429}},
	"GET /v1/log/consistency":               {"The proof that the log of the first size entries begins with that of the first older ones (RFC 6962).", apiv1.Consistency{}, "", []int{400, 404, 429}},
	"GET /v1/ca":                            {"The CAs in use, and when they are replaced.", apiv1.CAs{}, "", nil},
	"POST /v1/ca/rotate":                    {"Replace a CA before its time. Needs the right rotateCA.", apiv1.CAs{}, "", []int{400, 401, 403, 413, 415, 429}},
	"GET /v1/roots":                         {"The root, and the signed steps that lead to it from the roots before it.", apiv1.Roots{}, "", nil},
	"GET /v1/backup":                        {"The sealed state with what seals it and the holders' shares, a consistent snapshot (docs/wire.md). Needs the right backup.", nil, "application/octet-stream", []int{401, 429, 503}},
	"GET /v1/recovery":                      {"Who holds shares of the key that opens the state, their encrypted shares, and how far sessions are. Answered while the coordinator waits for recovery, too.", apiv1.Recovery{}, "", nil},
	"GET /v1/recovery/attestation":          {"A session that holders can send shares to, with evidence that binds it and the key of the connection. Answered while the coordinator waits for recovery, too.", apiv1.RecoveryStatement{}, "", []int{400, 404, 409, 429, 503}},
	"POST /v1/recovery/shares":              {"Give a share, encrypted to the session and signed by the key of the holder's certificate. The last that is needed completes the session.", apiv1.RecoveryProgress{}, "", []int{400, 403, 404, 409, 413, 422, 429, 503}},
	"POST /v1/replicas/challenge":           {"Begin to hand the key of the state over to a further coordinator: the coordinator's statement for the nonce of the question and the key of this connection, and a nonce that counts once, for 60 s, in this TLS session.", apiv1.ReplicaChallenge{}, "", []int{400, 403, 413, 415, 429, 503}},
	"POST /v1/replicas":                     {"Ask for the key of the state, with evidence that binds the request's key, the nonce and this TLS session. It is judged by the manifest's section coordinators; what is decided is in the log before the key is given.", apiv1.ReplicaKey{}, "", []int{400, 403, 413, 415, 422, 429, 503}},
	"GET /v1/bundle":                        {"The trust anchors of the deployment, PEM.", nil, "application/pem-certificate-chain", nil},
	"GET /v1/bundle.json":                   {"The trust anchors as a SPIFFE bundle (a JWK set).", nil, "application/json", nil},
	"GET /v1/openapi.json":                  {"This document.", nil, "application/json", nil},

	"GET /v1/secrets":                {"Secrets of the manifest, ordered by name: types, versions, ages and readers, never a value. For users of the manifest.", apiv1.Secrets{}, "", []int{400, 401, 404}},
	"GET /v1/secrets/{name}":         {"One secret, without its value. ETag is its newest version. For users of the manifest.", apiv1.Secret{}, "", []int{401, 404}},
	"PUT /v1/secrets/{name}":         {"Supply an opaque secret's next version. The value comes encrypted to the key of the statement (docs/wire.md). Needs the right writeSecret:NAME.", apiv1.SecretVersion{}, "", []int{400, 401, 403, 404, 409, 413, 415, 422, 429}},
	"POST /v1/secrets/{name}/reveal": {"The newest value of a secret, encrypted to the key of the request. The log has it first. Needs the right readSecret:NAME.", apiv1.SecretValue{}, "", []int{400, 401, 403, 404, 409, 413, 415, 422, 429}},
	"POST /v1/secrets/{name}/rotate": {"Give a secret its next version now. Needs the right rotateSecret:NAME.", apiv1.RotatedSecret{}, "", []int{400, 401, 403, 404, 409, 413, 415, 429}},

	"GET /v1/manifest/history":                {"Manifests that are or were in force, in order, linked by their digests.", apiv1.History{}, "", []int{400}},
	"GET /v1/revocations":                     {"The revocations that stand. For users of the manifest.", apiv1.Incidents{}, "", []int{401}},
	"POST /v1/revocations":                    {"Take identities away: of a marble or one instance, a package or one measurement, a platform or one machine, or a user. Needs the right revoke:KIND/NAME. Where others have to agree, the answer is a proposal.", apiv1.RevokeResult{}, "", incidentStatuses},
	"DELETE /v1/revocations/{id}":             {"Lift a revocation. Needs the right that it took.", apiv1.IncidentResult{}, "", incidentStatuses},
	"GET /v1/quarantine":                      {"Who is in quarantine. For users of the manifest.", apiv1.Incidents{}, "", []int{401}},
	"POST /v1/quarantine":                     {"Put a marble or one instance in quarantine: it keeps its identity, and may neither call nor be called, nor get secrets. Needs the right revoke:marbles/NAME.", apiv1.RevokeResult{}, "", incidentStatuses},
	"DELETE /v1/quarantine/{id}":              {"Lift a quarantine. Needs the right that it took.", apiv1.IncidentResult{}, "", incidentStatuses},
	"GET /v1/break-glass":                     {"The rules that are lifted for a while. The coordinator's statement has the same.", apiv1.Incidents{}, "", nil},
	"POST /v1/break-glass":                    {"Lift a rule for 1m to 24h: a hop that no call grants, or a TCB status that a platform does not accept. Needs the right breakGlass.", apiv1.IncidentResult{}, "", incidentStatuses},
	"DELETE /v1/break-glass/{id}":             {"End a break-glass before its time. Needs the right breakGlass.", apiv1.IncidentResult{}, "", incidentStatuses},
	"GET /v1/lineage":                         {"Every secret and leaf certificate that somebody touched and that counts still, who else reads it, and what helps. For users of the manifest.", apiv1.Lineage{}, "", []int{400, 401, 404}},
	"POST /v1/lineage/rotate":                 {"Rotate the secrets that somebody touched, and no others; what was touched is destroyed. Needs the right rotateSecret for each.", apiv1.RotateTouchedResult{}, "", incidentStatuses},
	"GET /v1/proposals":                       {"Changes that wait for approvals, oldest first. For users of the manifest.", apiv1.Proposals{}, "", []int{401, 404}},
	"GET /v1/proposals/{digest}":              {"One change that waits for approvals. ETag is its id. For users of the manifest.", apiv1.Proposal{}, "", []int{401, 404}},
	"DELETE /v1/proposals/{digest}":           {"End a proposal: its proposer withdraws it, who has a say in it rejects it.", apiv1.Proposal{}, "", []int{400, 401, 404, 409}},
	"GET /v1/proposals/{digest}/document":     {"The bytes of what is proposed, which have the digest: a manifest, or an action. For users of the manifest.", nil, "application/json", []int{401, 404}},
	"POST /v1/proposals/{digest}/approvals":   {"Approve a proposal with a signature of the key of the user's certificate (docs/wire.md). The one that settles the last demand puts the change in force.", apiv1.ApproveResult{}, "", []int{400, 401, 403, 404, 409, 413, 415}},
	"DELETE /v1/proposals/{digest}/approvals": {"Withdraw one's own approval of a proposal.", apiv1.Proposal{}, "", []int{400, 401, 404, 409}},
}

var incidentStatuses = []int{400, 401, 403, 404, 409, 413, 415, 422, 429}

// requests describes what operations that are no GET take.
var requests = map[string]struct {
	body     string
	document any // of type apiv1 or attest; nil: no JSON schema is given
	ifMatch  string
	open     bool // nobody in particular may call it, at times
}{
	"PUT /v1/manifest":            {"the manifest, at most 4 MiB", nil, "digest of the manifest in force, in quotes; absent only for the first", true},
	"PUT /v1/endorsements/bundle": {"a bundle of endorsements, at most 8 MiB", nil, "", false},
	"POST /v1/recovery/shares":    {"the share, at most 16 KiB", apiv1.RecoveryShare{}, "", true},
	"POST /v1/replicas/challenge": {"a fresh nonce, at most 1 KiB", apiv1.ReplicaQuestion{}, "", true},
	"POST /v1/replicas":           {"who asks, with evidence, at most 2 MiB", apiv1.ReplicaRequest{}, "", true},
	"POST /v1/plan":               {"what is assumed, at most 12 MiB", apiv1.PlanRequest{}, "", false},
	"POST /v1/ca/rotate":          {"which CA", apiv1.RotateCA{}, "", false},
	"PUT /v1/floors/{platform}":   {"the floor, at most 64 KiB", attest.Floor{}, "digest of the floor in force, in quotes; absent only for the first", false},

	"PUT /v1/secrets/{name}":         {"the sealed value, at most 88 KiB", apiv1.SecretUpload{}, "version that the value follows, in quotes; 0 for the first", false},
	"POST /v1/secrets/{name}/reveal": {"the key to encrypt to, at most 4 KiB", apiv1.RevealRequest{}, "", false},
	"POST /v1/secrets/{name}/rotate": {"which value, at most 4 KiB", apiv1.RotateSecretRequest{}, "", false},

	"POST /v1/revocations":        {"whom and why, at most 8 KiB", apiv1.RevokeRequest{}, "", false},
	"DELETE /v1/revocations/{id}": {"why, at most 8 KiB", apiv1.LiftRequest{}, "", false},
	"POST /v1/quarantine":         {"whom and why, at most 8 KiB", apiv1.RevokeRequest{}, "", false},
	"DELETE /v1/quarantine/{id}":  {"why, at most 8 KiB", apiv1.LiftRequest{}, "", false},
	"POST /v1/break-glass":        {"which rule, for how long and why, at most 8 KiB", apiv1.BreakGlassRequest{}, "", false},
	"DELETE /v1/break-glass/{id}": {"why, at most 8 KiB", apiv1.LiftRequest{}, "", false},
	"POST /v1/lineage/rotate":     {"what whom touched, at most 8 KiB", apiv1.RotateTouchedRequest{}, "", false},

	"DELETE /v1/proposals/{digest}":           {"", nil, "id of the proposal, in quotes", false},
	"POST /v1/proposals/{digest}/approvals":   {"the signature, at most 4 KiB", apiv1.ApproveRequest{}, "id of the proposal, in quotes", false},
	"DELETE /v1/proposals/{digest}/approvals": {"", nil, "id of the proposal, in quotes", false},
}

// queries are the parameters of operations that are no GET.
var queries = map[string][]string{"PUT /v1/manifest": {"accept", "dryRun"}}

var parameterDocs = map[string]object{
	"purpose":   {"description": "what the shares are for", "required": true, "schema": object{"type": "string", "enum": []string{"recover", "drill", "accept-rollback"}}},
	"nonce":     {"description": "32 random bytes, hexadecimal, never used before", "required": true, "schema": object{"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}},
	"after":     {"description": "name after which the page begins", "schema": object{"type": "string"}},
	"marble":    {"description": "only of this marble", "schema": object{"type": "string"}},
	"limit":     {"description": "entries of a page", "schema": object{"type": "integer", "minimum": 1, "maximum": maxPage}},
	"size":      {"description": "number of records under the checkpoint, as in the statement", "required": true, "schema": object{"type": "integer", "minimum": 1}},
	"index":     {"description": "place of the entry in the log, from 0", "required": true, "schema": object{"type": "integer", "minimum": 0}},
	"older":     {"description": "number of entries of the older log", "required": true, "schema": object{"type": "integer", "minimum": 0}},
	"witnessed": {"description": "the newest checkpoint that a witness has co-signed", "schema": object{"type": "boolean"}},
	"from":      {"description": "sequence number of the first record", "schema": object{"type": "integer", "minimum": 0}},

	"kind":     {"description": "marble, package, platform or user", "required": true, "schema": object{"type": "string", "enum": []string{"marble", "package", "platform", "user"}}},
	"name":     {"description": "name of the manifest, or of a platform a machine as evidence names it, hexadecimal", "required": true, "schema": object{"type": "string"}},
	"instance": {"description": "of a marble; absent for all of its instances", "schema": object{"type": "string"}},
	"revision": {"description": "this revision in place of the manifest in force", "schema": object{"type": "integer", "minimum": 1}},
	"accept":   {"description": "risks that are accepted, by name, with commas between them: drop-secrets, lock-out", "schema": object{"type": "string"}},
	"dryRun":   {"description": "judge the manifest and say what would become of it, but write nothing", "schema": object{"type": "boolean"}},
}

// schemas collects the JSON schemas of Go types.
type schemas object

func (s schemas) of(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[attest.Hex]():
		return object{"type": "string", "pattern": "^[0-9a-f]*$"}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return object{"type": "string"}
	case t == reflect.TypeFor[attest.Endorsements]():
		return object{"type": "array", "items": s.of(reflect.TypeFor[attest.Endorsement]())}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{}
	case t == reflect.TypeFor[[]byte]():
		return object{"type": "string", "contentEncoding": "base64"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Uint64, reflect.Uint32, reflect.Uint16, reflect.Uint8, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Slice:
		return object{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		return s.structure(t)
	}
	panic("no schema for " + t.String())
}

func (s schemas) structure(t reflect.Type) object {
	ref := object{"$ref": "#/components/schemas/" + t.Name()}
	if _, done := s[t.Name()]; done {
		return ref
	}
	s[t.Name()] = nil // breaks cycles
	properties, required := object{}, []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		properties[name] = s.of(f.Type)
		if options == "" {
			required = append(required, name)
		}
	}
	schema := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		schema["required"] = required
	}
	s[t.Name()] = schema
	return ref
}

var placeholder = regexp.MustCompile(`\{(\w+)(?:\.\.\.)?\}`)

func describe(t *testing.T) []byte {
	t.Helper()
	all := schemas{}
	all.of(reflect.TypeFor[document]())
	all["Problem"] = all["document"]
	delete(all, "document")
	paths := object{}
	for _, r := range routes {
		item := object{}
		for method := range r.methods {
			op, ok := operations[method+" "+r.path]
			if !ok {
				t.Fatalf("%s %s is not described", method, r.path)
			}
			item[strings.ToLower(method)] = describeOperation(t, r, method, op, all)
		}
		paths[placeholder.ReplaceAllString(r.path, "{$1}")] = item
	}
	doc := object{"openapi": "3.1.0",
		"info":  object{"title": "Ashlar client API", "version": "1", "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"}},
		"paths": paths, "components": object{"schemas": all,
			"securitySchemes": object{"user": object{"type": "mutualTLS", "description": "the client certificate of a user in the manifest"}}}}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(doc); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func describeOperation(t *testing.T, r route, method string, op operation, all schemas) object {
	t.Helper()
	content := op.content
	if content == "" {
		content = "application/json"
	}
	body := object{}
	if op.result != nil {
		body["schema"] = all.of(reflect.TypeOf(op.result))
	}
	responses := object{"200": object{"description": "OK", "content": object{content: body}}}
	if method+" "+r.path == "PUT /v1/manifest" {
		responses["202"] = object{"description": "It waits for approvals", "content": object{content: body}}
	}
	problemBody := object{"application/problem+json": object{"schema": object{"$ref": "#/components/schemas/Problem"}}}
	for _, status := range op.problems {
		code, _ := json.Marshal(status)
		responses[string(code)] = object{"description": "a problem (RFC 9457)", "content": problemBody}
	}
	responses["default"] = object{"description": "a problem (RFC 9457)", "content": problemBody}
	params := []object{}
	for _, m := range placeholder.FindAllStringSubmatch(r.path, -1) {
		params = append(params, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	out := object{"summary": op.summary, "responses": responses}
	names := queries[method+" "+r.path]
	if method == "GET" {
		names = r.query
	}
	for _, q := range names {
		p := object{"name": q, "in": "query"}
		for k, v := range parameterDocs[q] {
			p[k] = v
		}
		if len(p) == 2 {
			t.Fatalf("parameter %s is not described", q)
		}
		params = append(params, p)
	}
	if method != "GET" {
		in := requests[method+" "+r.path]
		if in.ifMatch != "" {
			params = append(params, object{"name": "If-Match", "in": "header", "description": in.ifMatch, "schema": object{"type": "string"}})
		}
		schema := object{}
		if in.document != nil {
			schema["schema"] = all.of(reflect.TypeOf(in.document))
		}
		if in.body != "" {
			out["requestBody"] = object{"required": true, "description": in.body, "content": object{"application/json": schema}}
		}
		out["security"] = []object{{"user": []string{}}}
		if in.open {
			out["security"] = []object{{}, {"user": []string{}}}
		}
	}
	if len(params) > 0 {
		out["parameters"] = params
	}
	return out
}

func TestOpenAPIDescribesTheRoutes(t *testing.T) {
	want := describe(t)
	if *update {
		if err := os.WriteFile("openapi.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("openapi.json is not what the routes are: go generate ./coordinator/internal/api")
	}
	known := 0
	for _, r := range routes {
		known += len(r.methods)
	}
	if known != len(operations) {
		t.Errorf("got %d operations described, want %d", len(operations), known)
	}
}

// Each handler must take exactly the parameters that its route lists.
func TestDocumentationNamesEveryRoute(t *testing.T) {
	b, err := os.ReadFile("../../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		for m := range r.methods {
			if !strings.Contains(string(b), "`"+m+" "+r.path) {
				t.Errorf("docs/api.md does not name %s %s", m, r.path)
			}
		}
		for _, q := range r.query {
			if !strings.Contains(string(b), "`"+q+"`") {
				t.Errorf("docs/api.md does not name parameter %s of %s", q, r.path)
			}
		}
	}
}

// Codes that this package and its clients raise are in the table.
func TestCodesAreKnown(t *testing.T) {
	code := regexp.MustCompile(`problem\.(?:New|Because)\((?:err, )?"([A-Z]{3}-\d{3})"`)
	found := map[string]bool{}
	for _, dir := range []string{".", "../..", "../../client", "../../daemon"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, f := range files {
			if !strings.HasSuffix(f.Name(), ".go") {
				continue
			}
			b, err := os.ReadFile(dir + "/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range code.FindAllStringSubmatch(string(b), -1) {
				found[m[1]] = true
			}
		}
	}
	for c := range found {
		if !problem.Known(problem.Code(c)) {
			t.Errorf("%s is not in the table", c)
		}
	}
	unused := []string{}
	for _, e := range problem.All() {
		if c := string(e.Code); c >= "CRD-100" && c < "CRD-200" && !found[c] {
			unused = append(unused, c)
		}
	}
	sort.Strings(unused)
	if len(unused) > 0 {
		t.Errorf("nothing raises %v", unused)
	}
}
