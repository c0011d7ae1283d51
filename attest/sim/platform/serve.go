package platform

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	maxConnections = 256
	maxHashing     = 2
	requestTimeout = 5 * time.Second // until a request has been read
	acceptRetry    = 10 * time.Millisecond
)

// Serve answers requests on a unix socket until ctx ends, then waits for those
// under way and returns nil. It serves at most 256 connections at once, each
// for one request of at most 30 seconds; further ones wait in the backlog.
// Whoever may connect may ask: the socket's mode and folder are the caller's.
func (p *Platform) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.Accept()
		if err != nil {
			<-p.slots
			if ctx.Err() != nil {
				return nil
			}
			if !temporary(err) {
				return fmt.Errorf("accepting on the platform's socket: %w", err)
			}
			pause.For(ctx, acceptRetry)
			continue
		}
		wg.Go(func() {
			defer func() { <-p.slots }()
			p.serveConn(ctx, conn)
		})
	}
}

// temporary reports whether accepting may succeed later, as when descriptors
// are short.
func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

func (p *Platform) serveConn(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }() // the answer has been written or will not be
	ctx, cancel := context.WithTimeout(ctx, sim.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))

	var req sim.Request
	var resp sim.Response
	if err := sim.ReadMessage(conn, &req, sim.MaxRequest); err != nil {
		resp.Problem = problem.Because(err, "ATT-092", "reading a request")
	} else if resp, err = p.answer(ctx, conn, req); err != nil {
		resp = sim.Response{Problem: problem.From(err)}
	}
	_ = conn.SetWriteDeadline(time.Now().Add(requestTimeout))
	_ = sim.WriteMessage(conn, resp, sim.MaxResponse) // the asker has gone
}

func (p *Platform) answer(ctx context.Context, conn net.Conn, req sim.Request) (sim.Response, error) {
	m, err := p.current()
	if err != nil {
		return sim.Response{}, problem.Because(err, "ATT-092", "reading the order to misbehave")
	}
	if m.Delay > 0 && !pause.For(ctx, min(time.Duration(m.Delay), sim.Timeout)) {
		return sim.Response{}, problem.Because(ctx.Err(), "ATT-093", "answering late")
	}
	if m.Throttled {
		return sim.Response{}, problem.New("ATT-093", "the simulation platform was told to be busy")
	}
	switch req.Op {
	case sim.OpRoot:
		return sim.Response{Root: string(p.RootPEM())}, nil
	case sim.OpEndorsements:
		set, err := p.Endorsements(req.TEE)
		if err != nil {
			return sim.Response{}, problem.Because(err, "ATT-092", "issuing endorsements")
		}
		return sim.Response{Endorsements: &set}, nil
	case sim.OpEvidence:
		return p.answerEvidence(ctx, conn, req, m)
	case sim.OpSealKey:
		return p.answerSealKey(ctx, conn, req, m)
	}
	return sim.Response{}, problem.New("ATT-092", "unknown operation %.32q: want evidence, endorsements, root or sealkey", req.Op)
}

func (p *Platform) answerEvidence(ctx context.Context, conn net.Conn, req sim.Request, m Misbehaviour) (sim.Response, error) {
	if len(req.Binding) != len(attest.Binding{}) {
		return sim.Response{}, problem.New("ATT-092", "binding has %d bytes, want %d", len(req.Binding), len(attest.Binding{}))
	}
	a, err := askerOf(conn)
	if err != nil {
		return sim.Response{}, problem.Because(err, "ATT-091", "finding out who asks")
	}
	defer a.close()
	measured, err := p.measure(ctx, a, req)
	if err != nil {
		return sim.Response{}, problem.Because(err, "ATT-091", "measuring process %d", a.pid)
	}
	e, err := p.quote(req.TEE, measured, attest.Binding(req.Binding), m)
	if err != nil {
		return sim.Response{}, problem.Because(err, "ATT-092", "issuing evidence")
	}
	return sim.Response{Evidence: &e}, nil
}

// versions are the security versions that a sealing key rests on.
type versions struct {
	CPU     int `json:"cpuSVN"`
	Program int `json:"programSVN"`
}

// sealVersions returns those that info names, which are at most the present ones:
// hardware gives no key of a version that it does not have (Intel SDM, EGETKEY).
func sealVersions(info []byte, m Misbehaviour) (versions, error) {
	v := versions{CPU: m.CPUSVN, Program: m.ProgramSVN}
	if info == nil {
		return v, nil
	}
	var asked versions
	if err := json.Unmarshal(info, &asked); err != nil {
		return v, problem.Because(err, "ATT-092", "reading which sealing key is wanted")
	}
	if asked.CPU > v.CPU || asked.Program > v.Program {
		return v, problem.New("ATT-096", "the platform is at CPU %d and program %d, and the key is of %d and %d: it went back", v.CPU, v.Program, asked.CPU, asked.Program)
	}
	return asked, nil
}

func (p *Platform) answerSealKey(ctx context.Context, conn net.Conn, req sim.Request, m Misbehaviour) (sim.Response, error) {
	info := "ashlar simulation seal key 1\x00" + string(req.Policy) + "\x00"
	v, err := sealVersions(req.Info, m)
	if err != nil {
		return sim.Response{}, err
	}
	switch req.Policy {
	case sim.SealProduct:
		info += m.Signer
	case sim.SealUnique:
		v.Program = 0
		a, err := askerOf(conn)
		if err != nil {
			return sim.Response{}, problem.Because(err, "ATT-091", "finding out who asks")
		}
		defer a.close()
		digest, err := p.hashExe(ctx, a)
		if err != nil {
			return sim.Response{}, problem.Because(err, "ATT-091", "measuring process %d", a.pid)
		}
		info += string(digest)
	default:
		return sim.Response{}, problem.New("ATT-092", "unknown sealing policy %.32q: want %q or %q", req.Policy, sim.SealUnique, sim.SealProduct)
	}
	kept, err := json.Marshal(v)
	if err != nil {
		return sim.Response{}, fmt.Errorf("encoding the versions of a sealing key: %w", err)
	}
	if v != (versions{}) {
		info += "\x00" + string(kept)
	}
	key, err := hkdf.Key(sha256.New, p.pki.sealSecret, nil, info, len(sim.SealKey{}))
	if err != nil {
		return sim.Response{}, fmt.Errorf("deriving a sealing key: %w", err)
	}
	return sim.Response{SealKey: key, SealInfo: kept}, nil
}

// measure looks at who asks, at the program it names, and at the files.
func (p *Platform) measure(ctx context.Context, a *asker, req sim.Request) (Measurement, error) {
	var m Measurement
	var err error
	if m.Agent, err = p.hashExe(ctx, a); err != nil {
		return m, fmt.Errorf("hashing the asking executable: %w", err)
	}
	switch prog := req.Program; {
	case prog == nil:
		m.Program = m.Agent
	case prog.FD != nil && prog.PID == 0:
		m.Program, err = p.hashFD(ctx, a, *prog.FD)
	case prog.FD == nil && prog.PID > 0:
		m.Program, err = p.hashDescendant(ctx, a, prog.PID)
	default:
		err = errors.New("name it by a descriptor or by a process id")
	}
	if err != nil {
		return m, fmt.Errorf("hashing the program: %w", err)
	}
	if len(req.Files) > sim.MaxFiles {
		return m, fmt.Errorf("%d files, limit %d", len(req.Files), sim.MaxFiles)
	}
	if len(req.Files) > 0 {
		m.Files = make(map[string]attest.Hex, len(req.Files))
	}
	for _, f := range req.Files {
		if _, twice := m.Files[f.Name]; twice || f.Name == "" || len(f.Name) > sim.MaxFileName {
			return m, fmt.Errorf("file name %.32q is empty, too long or comes twice", f.Name)
		}
		if m.Files[f.Name], err = p.hashFD(ctx, a, f.FD); err != nil {
			return m, fmt.Errorf("hashing file %.64q: %w", f.Name, err)
		}
	}
	return m, nil
}
