package coordinator

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxDecisions bounds one answer and the search for the beginning of an id.
const maxDecisions = 1000

// decisionID is the length of what follows the marble in a full id.
const decisionID = 8

var decisionKinds = []audit.Kind{audit.ActivationAccepted, audit.ActivationRefused, audit.RenewalAccepted, audit.RenewalRefused, audit.ReplicaAccepted, audit.ReplicaRefused}

// Decisions returns up to limit (at most 1,000, 100 if 0) decisions, newest
// first, of one marble or, for "", of all. It looks at the last 10,000 audit
// records.
func (c *Coordinator) Decisions(ctx context.Context, marble string, limit int) ([]apiv1.Decision, error) {
	entries, err := c.log.Recent(ctx, audit.Query{Subject: marble, Kinds: decisionKinds, Limit: limit})
	if err != nil {
		return nil, err
	}
	found := make([]apiv1.Decision, 0, len(entries))
	for _, e := range entries {
		d, err := decision(e)
		if err != nil {
			return nil, err
		}
		found = append(found, d)
	}
	return found, nil
}

// Decision returns the decision with an id, or with the beginning of one:
// "web/7f2c". Beginnings are looked for among the marble's last 1,000
// decisions. CRD-050 if there is none, CRD-051 if there are several.
func (c *Coordinator) Decision(ctx context.Context, id string) (apiv1.Decision, error) {
	marble, rest, ok := strings.Cut(id, "/")
	if !ok || rest == "" || len(rest) > decisionID {
		return apiv1.Decision{}, problem.New("CRD-050", "%.80q is no id such as web/7f2c19ab", id)
	}
	if len(rest) == decisionID {
		e, err := c.log.ByDecision(ctx, id)
		switch {
		case err == nil:
			return decision(e)
		case problem.CodeOf(err) != "STO-020":
			return apiv1.Decision{}, err
		}
	}
	// A refusal in a flood is not in the log, but the newest is remembered.
	if d := c.live.refusal(marble); d != nil && strings.HasPrefix(d.ID, id) && d.Record == nil {
		return *d, nil
	}
	if len(rest) == decisionID {
		return apiv1.Decision{}, problem.New("CRD-050", "the log has no decision %s", id)
	}
	return c.decisionLike(ctx, marble, id)
}

func (c *Coordinator) decisionLike(ctx context.Context, marble, id string) (apiv1.Decision, error) {
	entries, err := c.log.Recent(ctx, audit.Query{Subject: marble, Kinds: decisionKinds, Limit: maxDecisions})
	if err != nil {
		return apiv1.Decision{}, err
	}
	entries = slices.DeleteFunc(entries, func(e audit.Entry) bool { return !strings.HasPrefix(e.Decision, id) })
	switch len(entries) {
	case 0:
		return apiv1.Decision{}, problem.New("CRD-050", "no recent decision begins with %.80q", id)
	case 1:
		return decision(entries[0])
	}
	return apiv1.Decision{}, problem.New("CRD-051", "%s, %s and perhaps more begin with %s", entries[0].Decision, entries[1].Decision, id)
}

// decision turns an audit entry into what the client API shows.
func decision(e audit.Entry) (apiv1.Decision, error) {
	d := apiv1.Decision{
		ID: e.Decision, Seq: e.Seq, Time: e.Time, Marble: e.Subject, Instance: e.Details["instance"],
		Code: e.Code, Reason: e.Text, Nearest: e.Details["nearest"], Record: e.Hash,
	}
	for purpose, outcomes := range kinds {
		for accepted, kind := range outcomes {
			if kind == e.Kind {
				d.Purpose, d.Accepted = string(purpose), accepted
			}
		}
	}
	if err := d.Endorsements.UnmarshalText([]byte(e.Details["endorsements"])); err != nil {
		return d, problem.Because(err, "STO-017", "endorsement set of audit record %d", e.Seq)
	}
	d.Distance, _ = strconv.Atoi(e.Details["distance"]) // absent is 0
	if err := json.Unmarshal(e.Verdict, &d.Verdict); err != nil {
		return d, problem.Because(err, "STO-017", "verdict of audit record %d", e.Seq)
	}
	return d, nil
}

// loadRefusals finds the marbles whose newest decision in the log is a refusal.
func (c *Coordinator) loadRefusals(ctx context.Context) error {
	rev := c.current.Load()
	if rev.m == nil {
		return nil
	}
	newestFirst, err := c.Decisions(ctx, "", maxDecisions)
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(newestFirst) {
		if !rev.judges(d.Marble) {
			continue
		}
		if d.Accepted {
			c.live.accept(d.Marble)
		} else {
			c.live.refuse(&d)
		}
	}
	return nil
}

// Audit returns up to limit (at most 1,000, 100 if 0) records of the log from
// one on, and the checkpoint of the log as it is now. Redacted, they are without
// their private part, and where the text is in that, it is what the code means.
func (c *Coordinator) Audit(ctx context.Context, from uint64, limit int, redacted bool) (apiv1.Audit, error) {
	page := apiv1.Audit{Records: []apiv1.AuditRecord{}}
	if limit <= 0 {
		limit = 100
	}
	entries, err := c.log.Read(ctx, from, min(limit, maxDecisions))
	if err != nil {
		return page, err
	}
	at, err := c.log.Current(ctx)
	if err != nil {
		return page, err
	}
	page.Checkpoint = shown(at)
	page.Next = min(from, page.Checkpoint.Size)
	for _, e := range entries {
		r := apiv1.AuditRecord{
			Seq: e.Seq, Time: e.Time, Kind: string(e.Kind), Subject: e.Subject, Actor: e.Actor, Code: e.Code, Text: e.Text, Hash: e.Hash,
			Entry: e.Public, Private: e.Private,
		}
		if redacted {
			r.Text, r.Private = e.PublicText(), nil
		}
		page.Records = append(page.Records, r)
		page.Next = e.Seq + 1
	}
	return page, nil
}
