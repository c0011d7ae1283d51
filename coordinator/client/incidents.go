package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// incidentPaths are the resources of incidents by kind.
var incidentPaths = map[string]string{apiv1.Revocation: "/v1/revocations", apiv1.Quarantine: "/v1/quarantine", apiv1.BreakGlass: "/v1/break-glass"}

// Incidents lists the incidents of a kind that stand (apiv1.Revocation and the
// like). All but break-glass need a user's certificate.
func (c *Client) Incidents(ctx context.Context, kind string) (apiv1.Incidents, error) {
	return get[apiv1.Incidents](ctx, c, incidentPaths[kind], nil)
}

// Revoke takes identities away (apiv1.Revocation), or puts their bearers in
// quarantine. It needs the right revoke.
func (c *Client) Revoke(ctx context.Context, kind string, req apiv1.RevokeRequest) (apiv1.RevokeResult, error) {
	return send[apiv1.RevokeResult](ctx, c, http.MethodPost, incidentPaths[kind], nil, req)
}

// BreakGlass lifts a rule for a while. It needs the right breakGlass.
func (c *Client) BreakGlass(ctx context.Context, req apiv1.BreakGlassRequest) (apiv1.IncidentResult, error) {
	return send[apiv1.IncidentResult](ctx, c, http.MethodPost, incidentPaths[apiv1.BreakGlass], nil, req)
}

// Lift ends an incident of a kind.
func (c *Client) Lift(ctx context.Context, kind string, id int, reason string) (apiv1.IncidentResult, error) {
	if id < 1 {
		return apiv1.IncidentResult{}, problem.New("INC-011", "%d is no number of an incident", id)
	}
	return send[apiv1.IncidentResult](ctx, c, http.MethodDelete, incidentPaths[kind]+"/"+strconv.Itoa(id), nil, apiv1.LiftRequest{Reason: reason})
}

// Lineage returns what somebody touched and what counts still. Any user of the
// manifest may ask.
func (c *Client) Lineage(ctx context.Context, s apiv1.Subject) (apiv1.Lineage, error) {
	q := url.Values{}
	setText(q, "kind", s.Kind)
	setText(q, "name", s.Name)
	setText(q, "instance", s.Instance)
	return get[apiv1.Lineage](ctx, c, "/v1/lineage", q)
}

// RotateTouched rotates what somebody touched, and nothing else.
func (c *Client) RotateTouched(ctx context.Context, req apiv1.RotateTouchedRequest) (apiv1.RotateTouchedResult, error) {
	return send[apiv1.RotateTouchedResult](ctx, c, http.MethodPost, "/v1/lineage/rotate", nil, req)
}
