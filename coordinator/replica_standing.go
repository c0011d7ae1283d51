package coordinator

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// Standing is where a state stands, as far as a replica that waits has to know. It
// is immutable, and no secret is in it.
type Standing struct {
	Head     store.Head
	Log      audit.Checkpoint
	LogKey   string             // verifier key of the log
	Root     attest.Hex         // SHA-256 of the root CA certificate
	Manifest *manifest.Manifest // in force; nil before the first
	Digest   attest.Hex         // of the manifest; nil before the first
	Mark     recovery.Mark      // what the state says of its recovery document
	Epoch    int                // from 1

	accepted  time.Time // when holders of shares last accepted a rollback
	rev       *revision
	floors    floorsRecord
	incidents *incidents
	marks     endorse.Marks
}

// Inspect reads where a state stands. It writes nothing. A store without a
// coordinator is STO-012.
func Inspect(ctx context.Context, s *store.Store) (*Standing, error) {
	st, head, err := standingOf(ctx, s)
	if err == nil {
		st.rev, err = readRevision(ctx, s, head)
	}
	if err != nil {
		return nil, fmt.Errorf("inspecting the state: %w", err)
	}
	st.Manifest, st.Digest = st.rev.m, head.Digest
	return st, nil
}

// Inspect reads where the coordinator's own state stands, from memory alone.
func (c *Coordinator) Inspect(ctx context.Context) (*Standing, error) {
	st, _, err := standingOf(ctx, c.store)
	if err != nil {
		return nil, fmt.Errorf("inspecting the state: %w", err)
	}
	st.rev = c.current.Load()
	st.Manifest, st.Digest = st.rev.m, st.rev.record.Digest
	return st, nil
}

// standingOf reads what is in memory.
func standingOf(ctx context.Context, s *store.Store) (st *Standing, head revisionRecord, err error) {
	st = &Standing{}
	log := audit.New(s, rand.Reader)
	err = s.View(ctx, func(tx *store.Tx) (err error) {
		st.Head = store.HeadOf(tx)
		if st.Log, err = log.Checkpoint(tx); err != nil {
			return err
		}
		if err := st.readKeys(tx); err != nil {
			return err
		}
		head, _ = heads.Get(tx, keyCurrent)
		st.Mark, _ = recoveries.Get(tx, keyCurrent)
		epoch, _ := epochs.Get(tx, keyCurrent)
		st.Epoch, st.accepted = max(epoch.Number, 1), epoch.Accepted
		st.floors, _ = floorsTable.Get(tx, keyCurrent)
		st.marks, _ = marksTable.Get(tx, keyCurrent)
		st.incidents = readIncidents(tx)
		return nil
	})
	return st, head, err
}

// readKeys reads what is public of the state's keys.
func (st *Standing) readKeys(tx *store.Tx) error {
	k, ok := keys.Get(tx, keyCA)
	if !ok {
		return problem.New("STO-012", "the store holds no coordinator")
	}
	a, err := authority.Restore(k.State, rand.Reader)
	if err != nil {
		return err
	}
	signer, err := logSigner(tx)
	if err != nil {
		return err
	}
	root := sha256.Sum256(a.Root())
	st.Root, st.LogKey = root[:], signer.VerifierKey()
	return nil
}

// Position says in words where the state stands.
func (st *Standing) Position() string {
	return fmt.Sprintf("head %s, a log of %d entries with the root %x, epoch %d", st.Head, st.Log.Size, st.Log.Root[:8], st.Epoch)
}

// Follows refuses a state, which s holds, that is neither the one that a replica
// remembers nor went on from it: REP-031 where it went back, and REP-032 where it
// went on from another place. A state that is the older one rightly, since it was
// restored, is refused all the same, for the host can restore what it likes;
// unless holders of shares have accepted it since, which begins a later epoch.
func (st *Standing) Follows(ctx context.Context, s *store.Store, older *Standing) error {
	if st.Epoch > older.Epoch && st.accepted.After(older.accepted) {
		return nil
	}
	went := func(code problem.Code) error {
		return problem.New(code, "it stands at %s; this replica has seen %s", st.Position(), older.Position())
	}
	switch {
	case st.Head == older.Head:
		return nil
	case st.Head.Sequence == older.Head.Sequence:
		return went("REP-032")
	case st.Head.Sequence < older.Head.Sequence || st.Log.Size < older.Log.Size:
		return went("REP-031")
	}
	then, err := st.logAt(ctx, s, older.Log.Size)
	if err != nil {
		return err
	}
	if then != older.Log || st.LogKey != older.LogKey {
		return went("REP-032")
	}
	return nil
}

// logAt is the checkpoint over the first entries of the log, which has as many.
func (st *Standing) logAt(ctx context.Context, s *store.Store, size uint64) (audit.Checkpoint, error) {
	if size == st.Log.Size {
		return st.Log, nil
	}
	return audit.New(s, rand.Reader).At(ctx, size)
}

// Giver is the coordinator that handed the key of a state over, as it showed
// itself before it did.
type Giver struct {
	Statement apiv1.Statement
	Nonce     []byte // that the statement was asked for with
	TLSKey    []byte // PKIX DER of the key of the connection
}

// JudgeGiver judges the coordinator that gave the key of this state, which s holds,
// by the state itself: REP-030 with the verdict where its evidence is not what the
// manifest's section coordinators, the floors and the incidents ask for, or not of
// that connection; and REP-033 where what it attested, root, manifest and log, is
// not what the state has. A state is refused, too, that ends before the log that
// the giver attested.
func (st *Standing) JudgeGiver(ctx context.Context, s *store.Store, v attest.Verifiers, g Giver, at time.Time) error {
	if err := st.judgeEvidence(v, g, at); err != nil {
		return err
	}
	root := sha256.Sum256(g.Statement.Root)
	for _, same := range []struct{ what, state, said string }{
		{"root certificate", st.Root.String(), attest.Hex(root[:]).String()},
		{"manifest", st.Digest.String(), g.Statement.Manifest.String()},
		{"key of the log", st.LogKey, g.Statement.LogKey},
	} {
		if same.state != same.said {
			return problem.New("REP-033", "%s: the state has %q, attested was %.200q", same.what, same.state, same.said)
		}
	}
	return st.reaches(ctx, s, g.Statement)
}

// judgeEvidence judges the giver's evidence, and that it binds all of the statement,
// the nonce and the connection.
func (st *Standing) judgeEvidence(v attest.Verifiers, g Giver, at time.Time) error {
	policy, admits := st.rev.policyAs(binding.Replica, coordinators)
	if !admits {
		return problem.New("REP-030", "the manifest of the state, revision %d, has no section coordinators", st.rev.record.Number)
	}
	o := ownStatement{Statement: g.Statement, nonce: g.Nonce, incidents: st.incidents, at: at,
		policy: st.floors.raise(policy, st.incidents.statusesOn(policy.PlatformName, at)),
		marks: func(en attest.Endorsements) []attest.Step {
			return failedSteps(append(st.marks.Check(en), st.marks.CheckClock(at)))
		}}
	o.TLSKey = g.TLSKey
	verdict, barred, err := o.judge(v)
	switch {
	case err != nil:
		return problem.Because(err, "REP-030", "reading the claims buffer")
	case barred != nil:
		return problem.Because(barred, "REP-030", "it counts no more")
	case verdict.OK():
		return nil
	}
	code, text := verdict.Reason()
	e := problem.New("REP-030", "%s (%s)", text, code)
	if e.Verdict, err = json.Marshal(verdict); err != nil {
		return fmt.Errorf("encoding a verdict: %w", err)
	}
	return e
}

// ownStatement is what a coordinator says of itself, with what it is judged by
// where it is to be one that may hold the state.
type ownStatement struct {
	apiv1.Statement // TLSKey is that of the connection
	nonce           []byte
	policy          attest.Policy
	incidents       *incidents
	marks           func(attest.Endorsements) []attest.Step // those that do not hold
	at              time.Time
}

// judge makes the verdict, which has each binding of the statement as a step.
// Barred says why evidence that holds counts no more.
func (o ownStatement) judge(v attest.Verifiers) (verdict attest.Verdict, barred *problem.Error, err error) {
	claims, err := binding.Parse(o.ClaimsBuffer)
	if err != nil {
		return verdict, nil, err
	}
	m := matter{evidence: o.Evidence, claims: claims, expected: bound(o.Statement, o.nonce), endorsements: o.Endorsements, policy: o.policy, at: o.at}
	m.expected.Devices = binding.Devices(o.Evidence.Devices)
	verdict = withSteps(m.judge(v), o.marks(o.Endorsements))
	who := suspect{packageName: o.policy.PackageName, platform: o.policy.PlatformName}
	who.add(provenanceOf(verdict.Claims, time.Time{}))
	if in := o.incidents.barred(who); verdict.OK() && in != nil {
		barred = refusalOf(in)
	}
	return verdict, barred, nil
}

// reaches refuses a state whose log ends before the checkpoint that the giver
// attested, or does not begin with it: then the host showed an older state than the
// one that the key was given for.
func (st *Standing) reaches(ctx context.Context, s *store.Store, said apiv1.Statement) error {
	attested, err := transparency.Open([]byte(said.Checkpoint), said.LogKey)
	if err != nil {
		return problem.Because(err, "REP-033", "reading the checkpoint that the giver attested")
	}
	if attested.Size > st.Log.Size {
		return problem.New("REP-033", "its log has %d entries, and the giver attested %d", st.Log.Size, attested.Size)
	}
	then, err := st.logAt(ctx, s, attested.Size)
	if err != nil {
		return err
	}
	if then.Root != attested.Root {
		return problem.New("REP-033", "the root of its log of %d entries is %x, and the giver attested %x", attested.Size, then.Root[:8], attested.Root[:8])
	}
	return nil
}
