package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Secrets lists secrets of the manifest after a name, at most limit, without
// their values; zero leaves the limit to the coordinator. It needs a user's
// certificate.
func (c *Client) Secrets(ctx context.Context, after string, limit int) (apiv1.Secrets, error) {
	q := url.Values{}
	setText(q, "after", after)
	setNumber(q, "limit", uint64(max(limit, 0)))
	return get[apiv1.Secrets](ctx, c, "/v1/secrets", q)
}

// Secret describes one secret, without its value. It needs a user's certificate.
func (c *Client) Secret(ctx context.Context, name string) (apiv1.Secret, error) {
	return get[apiv1.Secret](ctx, c, secretPath(name), nil)
}

// SetSecret gives an opaque secret a value, 1 byte to 64 KiB, after version
// follows (0 for the first). It is encrypted here, to the key that the
// coordinator's evidence vouches for. It needs the right writeSecret.
func (c *Client) SetSecret(ctx context.Context, name string, value []byte, follows uint64) (apiv1.SecretVersion, error) {
	out, err := c.setSecret(ctx, name, value, follows)
	if problem.CodeOf(err) == "SEC-013" {
		// A coordinator that was started again has another key; what it shows was
		// verified on the connection that the refusal came over.
		out, err = c.setSecret(ctx, name, value, follows)
	}
	return out, err
}

func (c *Client) setSecret(ctx context.Context, name string, value []byte, follows uint64) (apiv1.SecretVersion, error) {
	s := c.Verified().Statement
	if len(s.UploadKey) == 0 {
		return apiv1.SecretVersion{}, problem.New("SEC-013", "the coordinator's evidence vouches for no key to encrypt to")
	}
	sealed, err := apiv1.SealSecret(s.UploadKey, apiv1.SealBinding{Purpose: apiv1.SealUpload, Root: s.Root, Name: name, Version: follows}, value)
	if err != nil {
		return apiv1.SecretVersion{}, problem.Because(err, "SEC-013", "encrypting the value")
	}
	header := http.Header{"If-Match": {strconv.Quote(strconv.FormatUint(follows, 10))}}
	return send[apiv1.SecretVersion](ctx, c, http.MethodPut, secretPath(name), header, apiv1.SecretUpload{Sealed: sealed})
}

// RevealSecret returns the newest value of a secret and its version: of a secret
// that each instance has, that of marble/id. The answer is encrypted to a key
// that is made for it. It needs the right readSecret.
func (c *Client) RevealSecret(ctx context.Context, name, instance string) (apiv1.RevealedSecret, uint64, error) {
	var out apiv1.RevealedSecret
	key, err := apiv1.NewUploadKey()
	if err != nil {
		return out, 0, problem.Because(err, "SEC-013", "making a key for the answer")
	}
	answer, err := send[apiv1.SecretValue](ctx, c, http.MethodPost, secretPath(name)+"/reveal", nil, apiv1.RevealRequest{Key: key.PublicKey().Bytes(), Instance: instance})
	if err != nil {
		return out, 0, err
	}
	plain, err := apiv1.OpenSecret(key, apiv1.SealBinding{Purpose: apiv1.SealReveal, Root: c.Verified().Statement.Root, Name: name, Version: answer.Version}, answer.Sealed)
	if err != nil {
		return out, 0, problem.Because(err, "SEC-013", "the answer about secret %s", name)
	}
	if err := json.Unmarshal(plain, &out); err != nil {
		return out, 0, problem.New("CRD-107", "the value of secret %s is in no form that is known", name)
	}
	return out, answer.Version, nil
}

// RotateSecret gives a secret its next version now: of a secret that each
// instance has, that of marble/id, or of all for "". It needs the right
// rotateSecret.
func (c *Client) RotateSecret(ctx context.Context, name, instance string) (apiv1.RotatedSecret, error) {
	return send[apiv1.RotatedSecret](ctx, c, http.MethodPost, secretPath(name)+"/rotate", nil, apiv1.RotateSecretRequest{Instance: instance})
}

func secretPath(name string) string { return "/v1/secrets/" + url.PathEscape(name) }
