package client

import (
	"context"
	"net/http"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

// Endorsements returns what the coordinator has of the vendors' documents, and
// the newest that decisions rested on. It needs a user's certificate.
func (c *Client) Endorsements(ctx context.Context) (apiv1.Endorsements, error) {
	return get[apiv1.Endorsements](ctx, c, "/v1/endorsements", nil)
}

// ExportEndorsements returns all documents as a bundle, which endorse.Import
// reads. It needs a user's certificate.
func (c *Client) ExportEndorsements(ctx context.Context) ([]byte, error) {
	return c.do(ctx, call{method: http.MethodGet, path: "/v1/endorsements/bundle"})
}

// ImportEndorsements gives the coordinator a bundle. What does not hold is
// refused set by set, which is no error. It needs the right manageEndorsements.
func (c *Client) ImportEndorsements(ctx context.Context, bundle []byte) (apiv1.ImportedEndorsements, error) {
	var out apiv1.ImportedEndorsements
	body, err := c.do(ctx, call{method: http.MethodPut, path: "/v1/endorsements/bundle", header: http.Header{"Content-Type": {"application/json"}}, body: bundle})
	if err != nil {
		return out, err
	}
	return out, decode(body, &out)
}
