package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// maxListedSecrets bounds a page of the list of secrets.
const maxListedSecrets = 1000

// mayHandle judges whether a user has a right to a secret: CRD-010, CRD-015,
// INC-007, SEC-001, SEC-010. Who has no right to a secret is not told whether it exists.
func (c *Coordinator) mayHandle(user *Principal, right, name string) error {
	m := c.current.Load().m
	switch {
	case m == nil:
		return problem.New("CRD-010", "no manifest was set yet, so there is no secret")
	case user == nil:
		return problem.New("CRD-015", "a secret needs a user's certificate")
	case c.outcast(user) != nil:
		return c.outcast(user)
	case !m.May(user.Name, right+name):
		return problem.New("SEC-010", "%s has no role with the action %s%.80s", user.Name, right, name)
	}
	if _, ok := m.Secrets[name]; !ok {
		return problem.New("SEC-001", "no secret %.80q", name)
	}
	return nil
}

// refuseSecret records what a user was refused, and returns the refusal.
func (c *Coordinator) refuseSecret(ctx context.Context, user *Principal, name string, refusal error) error {
	return c.refuseUser(ctx, user, audit.Record{Kind: audit.UserRefused, Subject: clip(name, 64)}, refusal)
}

// Secrets lists up to limit (at most 1,000) secrets of the manifest after a
// name, without their values. Any user may. Errors: CRD-010, CRD-015.
func (c *Coordinator) Secrets(ctx context.Context, user *Principal, after string, limit int) (apiv1.Secrets, error) {
	out := apiv1.Secrets{Secrets: []apiv1.Secret{}}
	m := c.current.Load().m
	switch {
	case m == nil:
		return out, problem.New("CRD-010", "no manifest was set yet, so there is no secret")
	case user == nil:
		return out, problem.New("CRD-015", "secrets are listed for users alone")
	}
	names := make([]string, 0, len(m.Secrets))
	for name := range m.Secrets {
		if name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if limit <= 0 || limit > maxListedSecrets {
		limit = maxListedSecrets
	}
	if len(names) > limit {
		names, out.Next = names[:limit], names[limit-1]
	}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		all := secrets.Describe(tx, m, c.config.Now())
		for _, name := range names {
			out.Secrets = append(out.Secrets, describeSecret(name, m.Secrets[name], all[name]))
		}
		return nil
	})
	return out, err
}

// Secret describes one secret, without its value. Any user may ask. Errors:
// CRD-010, CRD-015, SEC-001.
func (c *Coordinator) Secret(ctx context.Context, user *Principal, name string) (apiv1.Secret, error) {
	m := c.current.Load().m
	switch {
	case m == nil:
		return apiv1.Secret{}, problem.New("CRD-010", "no manifest was set yet, so there is no secret")
	case user == nil:
		return apiv1.Secret{}, problem.New("CRD-015", "secrets are shown to users alone")
	}
	s, ok := m.Secrets[name]
	if !ok {
		return apiv1.Secret{}, problem.New("SEC-001", "no secret %.80q", name)
	}
	var out apiv1.Secret
	err := c.store.View(ctx, func(tx *store.Tx) error {
		out = describeSecret(name, s, secrets.Describe(tx, m, c.config.Now())[name])
		return nil
	})
	return out, err
}

func describeSecret(name string, s manifest.Secret, i secrets.Info) apiv1.Secret {
	out := apiv1.Secret{Name: name, Type: string(s.Type), Bits: s.Bits, Scope: string(s.Scope), Readers: s.Readers, Depositors: s.Depositors,
		Version: i.Latest, Present: i.Present, Values: i.Values, MadeAt: i.Made, SuppliedBy: i.By, NotAfter: i.Ends,
		Previous: i.Before, OverlapEnds: i.Until, RotatesAt: i.Next}
	for _, op := range s.Operations {
		out.Operations = append(out.Operations, string(op))
	}
	return out
}

// MaySetSecret judges whether a user may supply a secret, before its value is
// read. The errors are those of SetSecret.
func (c *Coordinator) MaySetSecret(ctx context.Context, user *Principal, name string) error {
	if err := c.mayHandle(user, manifest.WriteSecret, name); err != nil {
		return c.refuseSecret(ctx, user, name, err)
	}
	return nil
}

// SetSecretRequest is a value that a user supplies.
type SetSecretRequest struct {
	Name    string
	Sealed  []byte // apiv1.SealSecret to the key of the statement, purpose apiv1.SealUpload
	Follows uint64 // the version that it follows; 0 for the first
	User    *Principal
}

// SetSecret gives an opaque secret its next version. The value comes encrypted
// to this coordinator, for this secret and after this version: taken elsewhere,
// or sent again, it is refused. What reads it gets it at once. Errors: CRD-010,
// CRD-015, SEC-001, SEC-008, SEC-010, SEC-011, SEC-013, SEC-014.
func (c *Coordinator) SetSecret(ctx context.Context, req SetSecretRequest) (apiv1.SecretVersion, error) {
	if err := c.MaySetSecret(ctx, req.User, req.Name); err != nil {
		return apiv1.SecretVersion{}, err
	}
	value, err := apiv1.OpenSecret(c.secret.upload, apiv1.SealBinding{Purpose: apiv1.SealUpload, Root: c.authority.Load().Root(), Name: req.Name, Version: req.Follows}, req.Sealed)
	if err != nil {
		return apiv1.SecretVersion{}, c.refuseSecret(ctx, req.User, req.Name, problem.New("SEC-013", "the value of secret %s: %s", req.Name, err))
	}
	var put secrets.Rotated
	err = c.again(ctx, func() error {
		rev := c.current.Load()
		return c.update(ctx, func(tx *store.Tx) (err error) {
			if c.moved(tx, rev) {
				return errAgain
			}
			if err := c.mayHandle(req.User, manifest.WriteSecret, req.Name); err != nil {
				return err
			}
			put, err = secrets.Put(tx, rev.m, secrets.Supply{Name: req.Name, Value: value, By: "user " + req.User.Name, Expect: &req.Follows, At: c.config.Now()})
			if err != nil {
				return err
			}
			return c.logUser(tx, audit.SecretWritten, secrets.ByWrite, userTouch{req.User.Name, req.Name, put.Version, until(put), ""})
		})
	})
	if err != nil {
		return apiv1.SecretVersion{}, err
	}
	c.secretsChanged(req.Name)
	return apiv1.SecretVersion{Name: req.Name, Version: put.Version, OverlapEnds: put.Until}, nil
}

// userTouch is what a user did with a version of a secret.
type userTouch struct {
	user, name string
	version    uint64
	until      string
	instance   string // marble/id
}

func (c *Coordinator) logUser(tx *store.Tx, kind audit.Kind, way string, u userTouch) error {
	t := secrets.Touch{Secret: u.name, Version: u.version, Of: u.instance, Origin: secrets.Origin{User: u.user}, Last: c.config.Now()}
	if _, err := secrets.Note(tx, t, way); err != nil {
		return err
	}
	r := audit.Record{Time: c.config.Now(), Kind: kind, Subject: u.name, Actor: u.user, Details: map[string]string{"version": fmt.Sprint(u.version)}}
	r.Text = fmt.Sprintf("%s supplied version %d", u.user, u.version)
	if kind == audit.SecretRead {
		r.Text = fmt.Sprintf("version %d was shown to %s", u.version, u.user)
	}
	if u.until != "" {
		r.Details["until"] = u.until
	}
	if u.instance != "" {
		r.Details["instance"] = u.instance
	}
	_, err := c.log.Append(tx, r)
	return err
}

// RevealSecretRequest asks for a value.
type RevealSecretRequest struct {
	Name     string
	Instance string // marble/id, of a secret that each instance has
	Key      []byte // X25519, 32 bytes, that the answer is encrypted to
	User     *Principal
}

// RevealSecret shows a user the newest value of a secret, encrypted to a key
// that he made for that. The log says so before he has it. Use-only keys are
// shown to nobody. Errors: CRD-010, CRD-015, SEC-001, SEC-004, SEC-005, SEC-010,
// SEC-013, SEC-017.
func (c *Coordinator) RevealSecret(ctx context.Context, req RevealSecretRequest) (apiv1.SecretValue, error) {
	if err := c.mayHandle(req.User, manifest.ReadSecret, req.Name); err != nil {
		return apiv1.SecretValue{}, c.refuseSecret(ctx, req.User, req.Name, err)
	}
	out := apiv1.SecretValue{Name: req.Name}
	err := c.again(ctx, func() error {
		rev := c.current.Load()
		return c.update(ctx, func(tx *store.Tx) error {
			if c.moved(tx, rev) {
				return errAgain
			}
			if err := c.mayHandle(req.User, manifest.ReadSecret, req.Name); err != nil {
				return err
			}
			t := secrets.Target{Name: req.Name}
			u := userTouch{user: req.User.Name, name: req.Name}
			if rev.m.Secrets[req.Name].Scope == manifest.Instance {
				t.Asker.Marble, t.Asker.Instance, _ = strings.Cut(req.Instance, "/")
				u.instance = req.Instance
			}
			v, err := secrets.Read(tx, rev.m, t, c.config.Now())
			if err != nil {
				return err
			}
			u.version, out.Version = v.Version, v.Version
			if out.Sealed, err = c.sealed(v, req); err != nil {
				return err
			}
			return c.logUser(tx, audit.SecretRead, secrets.ByRead, u)
		})
	})
	if err != nil {
		return apiv1.SecretValue{}, err
	}
	return out, nil
}

func (c *Coordinator) sealed(v secrets.Value, req RevealSecretRequest) ([]byte, error) {
	plain, err := json.Marshal(apiv1.RevealedSecret{Value: v.Bytes, PrivateKey: v.PrivateKey, Certificates: v.Certificates})
	if err != nil {
		return nil, fmt.Errorf("encoding a secret")
	}
	sealed, err := apiv1.SealSecret(req.Key, apiv1.SealBinding{Purpose: apiv1.SealReveal, Root: c.authority.Load().Root(), Name: req.Name, Version: v.Version}, plain)
	if err != nil {
		return nil, problem.New("SEC-013", "%s", err)
	}
	return sealed, nil
}

// secretAttention lists secrets that readers wait for, at most maxAttention.
func secretAttention(tx *store.Tx, rev *revision) []apiv1.Attention {
	var list []apiv1.Attention
	if rev.m == nil {
		return nil
	}
	for _, name := range secrets.Unsupplied(tx, rev.m) {
		if len(list) == maxAttention {
			break
		}
		e := problem.Lookup("SEC-003")
		list = append(list, apiv1.Attention{Code: string(e.Code), Subject: "secret " + name, Text: e.Title, Next: "ashlar secret set " + name, Since: rev.record.SetAt})
	}
	return list
}
