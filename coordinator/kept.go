package coordinator

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Bounds of what is kept of refusals.
const (
	maxKeptPerMarble = 4
	maxKept          = 1000
	maxKeptSize      = 256 << 10 // bytes as JSON: what is larger is not kept
)

var (
	// evidences are what decisions were made from: of instances under
	// "instance/" and their key, of refusals under "decision/" and their id, of
	// coordinators that got the state's key under "replica/" and their name.
	evidences = store.NewBlobs("evidence")
	// refusals are the newest refusals that can be judged again, by decision id.
	refusals = store.NewTable[refusalRecord]("refusals")
	// sets are the endorsement sets that instances and refusals rest on, by
	// digest in hex; their documents are blobs under the same key. A set that
	// nothing rests on any more is removed by Tick.
	sets          = store.NewTable[setRecord]("endorsements")
	setsDocuments = store.NewBlobs("endorsements")
)

// refusalRecord is a refusal whose evidence is kept.
type refusalRecord struct {
	At       time.Time `json:"at"`
	Instance string    `json:"instance"`
	Basis    basis     `json:"basis"`
	Genuine  bool      `json:"genuine,omitempty"` // the evidence was made by a TEE
}

// setRecord is an endorsement set that is kept.
type setRecord struct {
	Sum attest.Hex `json:"sum"` // of the documents' blob
}

// basis says what a decision was made from.
type basis struct {
	Evidence attest.Hex `json:"evidence,omitempty"` // sum of the blob; absent where none is kept
	Set      attest.Hex `json:"set,omitempty"`      // digest of the endorsement set
}

// matter is all that a verdict is made from, besides the verifiers.
type matter struct {
	evidence     attest.Evidence
	claims       binding.Claims // as they came
	expected     binding.Claims // as this session demands them
	endorsements attest.Endorsements
	policy       attest.Policy
	at           time.Time
}

// judge makes the verdict. It is pure.
func (m matter) judge(v attest.Verifiers) attest.Verdict {
	verdict := attest.Judge(v, m.evidence, m.claims.Binding(), m.endorsements, m.policy, m.at)
	steps := binding.Expect(m.expected, m.claims)
	return withBinding(verdict, append(steps, binding.ExpectDevices(m.expected, verdict.Devices)...))
}

// kept is the stored form of a matter. Policy and endorsements are elsewhere.
type kept struct {
	Decision string    `json:"decision"`
	At       time.Time `json:"at"`
	Revision int       `json:"revision"`         // of the manifest
	Floors   int       `json:"floors,omitempty"` // version
	// Excused are TCB statuses that break-glass had the platform accept.
	Excused  []attest.TCBStatus `json:"excused,omitempty"`
	Evidence attest.Evidence    `json:"evidence"`
	Claims   []byte             `json:"claims"`          // claims buffer, as it came
	Expected []byte             `json:"expected"`        // claims buffer as this session demanded it
	Steps    []attest.Step      `json:"steps,omitempty"` // failed checks of marks, which move on
}

// pack encodes what a ruling was made from. Call it outside of an Update.
func (r *ruling) pack() ([]byte, error) {
	b, err := json.Marshal(kept{
		Decision: r.id, At: r.at.UTC(), Revision: r.rev.record.Number, Floors: r.floors.Version, Excused: r.excused,
		Evidence: r.matter.evidence, Claims: r.matter.claims.Encode(), Expected: r.matter.expected.Encode(), Steps: r.behind,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding evidence to keep: %w", err)
	}
	return b, nil
}

// keep puts evidence under a key, and the endorsements that it was judged with
// where they are not there yet.
func keep(tx *store.Tx, key string, packed []byte, en attest.Endorsements) (basis, error) {
	sum, err := evidences.Put(tx, key, packed)
	if err != nil {
		return basis{}, err
	}
	digest := en.Digest()
	b := basis{Evidence: sum[:], Set: digest[:]}
	name := hex.EncodeToString(digest[:])
	if _, known := sets.Get(tx, name); known {
		return b, nil
	}
	documents, err := json.Marshal(en)
	if err != nil {
		return b, fmt.Errorf("encoding endorsements to keep: %w", err)
	}
	of, err := setsDocuments.Put(tx, name, documents)
	if err != nil {
		return b, err
	}
	return b, sets.Put(tx, name, setRecord{Sum: of[:]})
}

// keepRefusal keeps the evidence of a refusal, in place of the marble's oldest
// one where it has many, or of the oldest of all. Half of the places are for
// genuine evidence, so that what anybody can make up does not drive it out, and
// half for the rest.
func keepRefusal(tx *store.Tx, r *ruling, packed []byte) error {
	if len(packed) > maxKeptSize {
		return nil
	}
	room := func(prefix string, limit int) {
		var n [2]int
		var oldest [2]string
		var when [2]time.Time
		for id, o := range refusals.Prefix(tx, prefix) {
			c := class(o.Genuine)
			if n[c]++; oldest[c] == "" || o.At.Before(when[c]) {
				oldest[c], when[c] = id, o.At
			}
		}
		goes := class(r.verdict.Genuine)
		if n[goes] < limit/2 {
			goes = 1 - goes
		}
		if n[0]+n[1] >= limit {
			dropRefusal(tx, oldest[goes])
		}
	}
	room(r.asked.info.Marble+"/", maxKeptPerMarble)
	if refusals.Len(tx) >= maxKept {
		room("", maxKept)
	}
	b, err := keep(tx, decisionKey(r.id), packed, r.matter.endorsements)
	if err != nil {
		return err
	}
	return refusals.Put(tx, r.id, refusalRecord{At: r.at.UTC(), Instance: r.asked.info.ID, Basis: b, Genuine: r.verdict.Genuine})
}

func class(genuine bool) int {
	if genuine {
		return 1
	}
	return 0
}

func dropRefusal(tx *store.Tx, id string) {
	refusals.Delete(tx, id)
	evidences.Delete(tx, decisionKey(id))
}

func instanceEvidence(key string) string { return "instance/" + key }

func decisionKey(id string) string { return "decision/" + id }

// readKept reads evidence and its claims back. It is STO-006 if the record that
// b is from does not name it any more.
func (c *Coordinator) readKept(ctx context.Context, key string, b basis) (kept, error) {
	var k kept
	raw, err := evidences.Read(ctx, c.store, key, sum32(b.Evidence))
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(raw, &k); err != nil {
		return k, problem.Because(err, "STO-017", "evidence %.200s", key)
	}
	return k, nil
}

// readSet reads an endorsement set back.
func (c *Coordinator) readSet(ctx context.Context, digest attest.Hex) (attest.Endorsements, error) {
	var en attest.Endorsements
	name := digest.String()
	var record setRecord
	err := c.store.View(ctx, func(tx *store.Tx) error {
		record, _ = sets.Get(tx, name)
		return nil
	})
	if err != nil {
		return en, err
	}
	raw, err := setsDocuments.Read(ctx, c.store, name, sum32(record.Sum))
	if err != nil {
		return en, err
	}
	if err := json.Unmarshal(raw, &en); err != nil {
		return en, problem.Because(err, "STO-017", "endorsement set %s", name)
	}
	if got := en.Digest(); hex.EncodeToString(got[:]) != name {
		return en, problem.New("STO-006", "endorsement set %s reads as %x", name, got)
	}
	return en, nil
}

// Judged calls back with every endorsement set that live instances and replicas
// rest on, and with a piece of evidence that was judged with it. What cannot be
// read is left out.
func (c *Coordinator) Judged(ctx context.Context, with func(attest.Evidence, attest.Endorsements)) error {
	type one struct {
		key string // of the evidence
		basis
	}
	bySet := map[string]one{}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		for key, b := range resting(tx) {
			bySet[string(b.Set)] = one{key, b}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading what decisions rest on: %w", err)
	}
	for _, o := range bySet {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("reading what decisions rest on: %w", err)
		}
		k, err := c.readKept(ctx, o.key, o.basis)
		if err != nil {
			continue
		}
		if en, err := c.readSet(ctx, o.Set); err == nil {
			with(k.Evidence, en)
		}
	}
	return nil
}

// resting yields what live instances and replicas rest on, each with the key of
// its evidence.
func resting(tx *store.Tx) iter.Seq2[string, basis] {
	return func(yield func(string, basis) bool) {
		for instance, r := range instances.All(tx) {
			if !yield(instanceEvidence(instance), r.Basis) {
				return
			}
		}
		for name, r := range replicas.All(tx) {
			if !yield(replicaEvidence(name), r.Basis) {
				return
			}
		}
	}
}

// sum32 is a sum as an array; a malformed one gives that of nothing.
func sum32(h attest.Hex) (sum [32]byte) {
	if len(h) == len(sum) {
		copy(sum[:], h)
	}
	return sum
}

// unneeded returns the endorsement sets that nothing rests on, and the refusals
// of marbles that the manifest no longer has.
func unneeded(tx *store.Tx, rev *revision) (unusedSets, gone []string) {
	used := map[string]bool{}
	for _, b := range resting(tx) {
		used[string(b.Set)] = true
	}
	for id, r := range refusals.All(tx) {
		marble, _, _ := strings.Cut(id, "/")
		if !rev.judges(marble) {
			gone = append(gone, id)
			continue
		}
		used[string(r.Basis.Set)] = true
	}
	for name := range sets.All(tx) {
		digest, err := hex.DecodeString(name)
		if err != nil || !used[string(digest)] {
			unusedSets = append(unusedSets, name)
		}
	}
	return unusedSets, gone
}

// sweep removes what is kept and not needed any more.
func (c *Coordinator) sweep(ctx context.Context) error {
	rev := c.current.Load()
	if rev.m == nil {
		return nil
	}
	found := false
	err := c.store.View(ctx, func(tx *store.Tx) error {
		unused, gone := unneeded(tx, rev)
		found = len(unused)+len(gone) > 0
		return nil
	})
	if err != nil || !found {
		return err
	}
	err = c.update(ctx, func(tx *store.Tx) error {
		unused, gone := unneeded(tx, rev)
		for _, name := range unused {
			sets.Delete(tx, name)
			setsDocuments.Delete(tx, name)
		}
		for _, id := range gone {
			dropRefusal(tx, id)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("removing evidence that is not needed: %w", err)
	}
	return nil
}
