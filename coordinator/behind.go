package coordinator

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// compareTime bounds one comparison: a record is read, and perhaps one written.
const compareTime = 5 * time.Second

// behindRecord says that the state is an older one, and how that is known.
type behindRecord struct {
	Since  time.Time `json:"since"`
	Text   string    `json:"text"`
	Marble string    `json:"marble"` // who showed it
	Seq    uint64    `json:"seq"`    // the entry that this log does not have
}

// compare finds out whether a leaf proves that this state is an older one. Each
// leaf carries the promise, signed by the log, that the entry of its issuance
// stands at a place; the key of the log is in the state, so an older copy of it
// knows its own signature. A log that is shorter, or has something else there, is
// behind. A leaf that the state knows proves nothing, and none does that was
// issued before a rollback was accepted.
func (c *Coordinator) compare(cert *x509.Certificate) error {
	if c.behind.Load() != nil {
		return c.refuseBehind()
	}
	if _, known := c.live.find(authority.Serial(cert)); known {
		return nil
	}
	facts, ok := leafFacts(cert)
	if !ok || transparency.VerifyPromise(facts.Log, c.LogKey()) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), compareTime)
	defer cancel()
	text, err := c.contradicts(ctx, cert, facts.Log)
	if err != nil || text == "" {
		return err
	}
	b := behindRecord{Since: c.config.Now().UTC(), Text: text, Seq: facts.Log.Index}
	if len(cert.URIs) == 1 {
		b.Marble = cert.URIs[0].String()
	}
	if err := c.fallBehind(ctx, b); err != nil {
		return err
	}
	return c.refuseBehind()
}

// contradicts says what of a promise the log does not keep; "" for nothing.
func (c *Coordinator) contradicts(ctx context.Context, cert *x509.Certificate, p transparency.Promise) (string, error) {
	var size uint64
	var epoch epochRecord
	err := c.store.View(ctx, func(tx *store.Tx) error {
		at, err := c.log.Checkpoint(tx)
		size = at.Size
		epoch, _ = epochs.Get(tx, keyCurrent)
		return err
	})
	if err != nil {
		return "", err
	}
	if !cert.NotBefore.Add(authority.Backdate).After(epoch.Accepted) {
		return "", nil
	}
	if p.Index >= size {
		return fmt.Sprintf("a leaf of %s rests on entry %d, and the log has %d", stamp(cert.NotBefore), p.Index, size), nil
	}
	found, err := c.log.Read(ctx, p.Index, 1)
	if err != nil {
		return "", err
	}
	if len(found) == 1 && string(found[0].Hash) == string(p.Leaf[:]) {
		return "", nil
	}
	return fmt.Sprintf("a leaf of %s rests on another entry %d than the log has", stamp(cert.NotBefore), p.Index), nil
}

// fallBehind records that the state is behind, once.
func (c *Coordinator) fallBehind(ctx context.Context, b behindRecord) error {
	err := c.update(ctx, func(tx *store.Tx) error {
		if _, already := behinds.Get(tx, keyCurrent); already {
			return nil
		}
		if err := behinds.Put(tx, keyCurrent, b); err != nil {
			return err
		}
		_, err := c.log.Append(tx, audit.Record{Time: b.Since, Kind: audit.Behind, Subject: "state", Actor: b.Marble, Text: b.Text})
		return err
	})
	if err != nil {
		return err
	}
	c.behind.Store(&b)
	c.changed()
	return nil
}

// refuseBehind is what everybody is told who wants something of a state that is
// behind; nil if it is not.
func (c *Coordinator) refuseBehind() error {
	if b := c.behind.Load(); b != nil {
		return problem.New("REC-030", "%s", b.Text)
	}
	return nil
}

func (c *Coordinator) behindAttention() []apiv1.Attention {
	b := c.behind.Load()
	if b == nil {
		return nil
	}
	e := problem.Lookup("REC-030")
	return []apiv1.Attention{{Code: string(e.Code), Subject: "state", Text: b.Text, Next: e.Next, Since: b.Since}}
}

// leafFacts reads the extension LeafOID.
func leafFacts(cert *x509.Certificate) (apiv1.LeafFacts, bool) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(apiv1.LeafOID) {
			f, err := apiv1.ParseLeafFacts(e.Value)
			return f, err == nil
		}
	}
	return apiv1.LeafFacts{}, false
}
