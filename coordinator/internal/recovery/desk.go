package recovery

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/shares"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	// SessionLife is how long a session takes shares; then they are forgotten.
	SessionLife = time.Hour
	// maxWrong is how many wrong shares one holder may send in a session's life.
	maxWrong = 10
)

// Approval is what a holder signed, for the log.
type Approval struct {
	User    string
	Index   int
	Message apiv1.RecoveryShare
}

// Outcome is what enough shares gave.
type Outcome struct {
	Key       seal.Key // the data key, authenticated against the document
	Session   []byte
	Approvals []Approval
	Document  *apiv1.RecoveryDocument
}

// Desk is where holders hand their shares in. It is safe for concurrent use.
type Desk struct {
	now func() time.Time

	mu       sync.Mutex // guards all fields
	document *apiv1.RecoveryDocument
	sessions map[string]*session // by purpose
	wrong    map[string]wrong    // by holder
}

// session takes shares for one purpose until it ends.
type session struct {
	raw       []byte
	key       shares.PrivateKey
	begun     time.Time
	shares    []shares.Share
	approvals []Approval
	done      bool
}

type wrong struct {
	since time.Time
	count int
}

// NewDesk returns a desk for the holders of a document; nil for nobody.
func NewDesk(d *apiv1.RecoveryDocument, now func() time.Time) *Desk {
	return &Desk{now: now, document: d, sessions: map[string]*session{}, wrong: map[string]wrong{}}
}

// Replace begins anew with another document: shares that are in are forgotten.
func (k *Desk) Replace(d *apiv1.RecoveryDocument) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.document, k.sessions = d, map[string]*session{}
}

// Document returns the document, nil if there is none. It must not be changed.
func (k *Desk) Document() *apiv1.RecoveryDocument {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.document
}

// Session returns the bytes of the session for a purpose, a new one if there is
// none. A checkpoint goes with PurposeRollback alone; another one is another
// session. REC-005 without holders.
func (k *Desk) Session(purpose string, at *apiv1.Checkpoint) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.document == nil {
		return nil, problem.New("REC-005", "the manifest names no recovery keys")
	}
	k.expire()
	if s := k.sessions[purpose]; s != nil && !s.done && sameCheckpoint(s.raw, at) {
		return s.raw, nil
	}
	key, err := shares.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	to, err := key.Public()
	if err != nil {
		return nil, err
	}
	s := &session{key: key, begun: k.now()}
	s.raw, err = json.Marshal(apiv1.RecoverySession{Version: formatVersion, Purpose: purpose, Deployment: k.document.Deployment,
		Generation: k.document.Generation, Recipient: to, Begun: s.begun.UTC().Truncate(time.Second), Checkpoint: at})
	if err != nil {
		return nil, fmt.Errorf("encoding a recovery session: %w", err)
	}
	k.sessions[purpose] = s
	return s.raw, nil
}

func sameCheckpoint(raw []byte, at *apiv1.Checkpoint) bool {
	var s apiv1.RecoverySession
	if json.Unmarshal(raw, &s) != nil || (s.Checkpoint == nil) != (at == nil) {
		return false
	}
	return at == nil || s.Checkpoint.Size == at.Size && slices.Equal(s.Checkpoint.Hash, at.Hash)
}

// expire forgets sessions that have ended. The caller holds mu.
func (k *Desk) expire() {
	for purpose, s := range k.sessions {
		if age := k.now().Sub(s.begun); age >= SessionLife || age < -SessionLife {
			delete(k.sessions, purpose)
		}
	}
}

// Progress returns the sessions that have shares, or that are done.
func (k *Desk) Progress() []apiv1.RecoveryProgress {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.expire()
	all := []apiv1.RecoveryProgress{}
	for _, purpose := range []string{apiv1.PurposeRecover, apiv1.PurposeDrill, apiv1.PurposeRollback} {
		if s := k.sessions[purpose]; s != nil && len(s.approvals) > 0 {
			all = append(all, k.progress(purpose, s))
		}
	}
	return all
}

// progress says how far a session is. The caller holds mu.
func (k *Desk) progress(purpose string, s *session) apiv1.RecoveryProgress {
	p := apiv1.RecoveryProgress{Purpose: purpose, Needed: k.document.Threshold, Given: []string{}, Missing: []string{},
		Until: s.begun.Add(SessionLife).UTC(), Done: s.done}
	for _, h := range k.document.Holders {
		if slices.ContainsFunc(s.approvals, func(a Approval) bool { return a.User == h.User }) {
			p.Given = append(p.Given, h.User)
		} else {
			p.Missing = append(p.Missing, h.User)
		}
	}
	return p
}

// Take takes a holder's share. With the last that is needed it returns an
// Outcome; done is to be called with whether that was put to its use: then the
// session is over, else its shares are forgotten. Errors: REC-003, REC-005 and
// REC-011 to REC-021. A share that is refused changes nothing but the count of
// the holder's wrong ones.
func (k *Desk) Take(m apiv1.RecoveryShare) (apiv1.RecoveryProgress, *Outcome, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.document == nil {
		return apiv1.RecoveryProgress{}, nil, problem.New("REC-005", "the manifest names no recovery keys")
	}
	k.expire()
	purpose, s := k.find(m.Session)
	if s == nil {
		return apiv1.RecoveryProgress{}, nil, problem.New("REC-018", "no session is %.16s", m.Session)
	}
	place, err := shares.CheckApproval(*k.document, s.raw, m, k.now())
	if err != nil {
		return k.progress(purpose, s), nil, err
	}
	if slices.ContainsFunc(s.approvals, func(a Approval) bool { return a.User == m.User }) {
		return k.progress(purpose, s), nil, problem.New("REC-015", "the share of %s is in: %s", m.User, k.summary(purpose, s))
	}
	share, err := k.open(s, m, place)
	if err != nil {
		return k.progress(purpose, s), nil, err
	}
	s.shares = append(s.shares, share)
	s.approvals = append(s.approvals, Approval{User: m.User, Index: place + 1, Message: m})
	if len(s.shares) < k.document.Threshold {
		return k.progress(purpose, s), nil, nil
	}
	outcome, err := k.combine(s)
	s.shares = nil
	if err != nil {
		delete(k.sessions, purpose)
		return apiv1.RecoveryProgress{}, nil, err
	}
	s.done = true
	return k.progress(purpose, s), outcome, nil
}

// find returns the session that has a digest. The caller holds mu.
func (k *Desk) find(sum attest.Hex) (string, *session) {
	for purpose, s := range k.sessions {
		if got := sha256.Sum256(s.raw); slices.Equal(got[:], sum) && !s.done {
			return purpose, s
		}
	}
	return "", nil
}

// open decrypts and checks a share whose sender is known. The caller holds mu.
func (k *Desk) open(s *session, m apiv1.RecoveryShare, place int) (shares.Share, error) {
	w := k.wrong[m.User]
	if age := k.now().Sub(w.since); age >= SessionLife || age < -SessionLife {
		w = wrong{since: k.now()}
	}
	if w.count >= maxWrong {
		return shares.Share{}, problem.New("REC-020", "%s sent %d wrong shares since %s", m.User, w.count, w.since.UTC().Format(time.RFC3339))
	}
	of := apiv1.RecoverySession{Deployment: k.document.Deployment, Generation: k.document.Generation}
	share, err := s.key.Open(m.Sealed)
	if err == nil {
		err = share.Of(of, place+1)
	}
	if err == nil {
		err = share.Verify(k.document.Commitments)
	}
	if err != nil {
		w.count++
		k.wrong[m.User] = w
	}
	return share, err
}

// combine makes the data key. The caller holds mu.
func (k *Desk) combine(s *session) (*Outcome, error) {
	secret, err := shares.Combine(k.document.Threshold, s.shares)
	if err != nil {
		return nil, problem.Because(err, "REC-021", "combining them")
	}
	key, err := unwrap(secret, k.document)
	if err != nil {
		return nil, err
	}
	return &Outcome{Key: key, Session: s.raw, Approvals: slices.Clone(s.approvals), Document: k.document}, nil
}

// summary says how many shares are in, and whose are missing. The caller holds
// mu.
func (k *Desk) summary(purpose string, s *session) string {
	p := k.progress(purpose, s)
	return fmt.Sprintf("%d of %d are in, missing are those of %s", len(p.Given), p.Needed, strings.Join(p.Missing, ", "))
}

// Forget ends a session whose outcome could not be put to use.
func (k *Desk) Forget(raw []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for purpose, s := range k.sessions {
		if string(s.raw) == string(raw) {
			delete(k.sessions, purpose)
		}
	}
}

// Digest names a session in the log: SHA-256, hex.
func Digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
