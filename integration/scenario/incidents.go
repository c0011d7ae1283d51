package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/coordinator/shares"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// revoke takes a marble's identity away; its leaf and key are in a thief's hands.
func (s *story) revoke(ctx context.Context, name string) error {
	began, since := time.Now(), s.clock.now()
	s.revoked = name
	settled := s.checker.change(s.rules())
	err := s.as(ctx, "alice", func(c *client.Client) error {
		r, err := c.Revoke(ctx, apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: apiv1.MarbleSubject, Name: name}, Reason: "its key was stolen"})
		if err == nil && r.Incident == nil {
			err = fmt.Errorf("it waits for approvals")
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := s.shut(ctx, name, since); err != nil {
		return err
	}
	settled()
	for range 3 {
		if err := s.dwell(ctx, time.Now()); err != nil {
			return err
		}
	}
	after := max(0, s.checker.lastPassed(name).Sub(began))
	s.say("%s revoked; the last request of it was answered %s after the command", name, after.Round(time.Millisecond))
	return nil
}

// shut waits until the proxies of all that a marble may call have taken another
// listener than they had at a moment: a revocation is no revision of the manifest.
func (s *story) shut(ctx context.Context, name string, since time.Time) error {
	return s.as(ctx, "alice", func(c *client.Client) error {
		return s.await(ctx, "whom "+name+" called shuts it out", func() string {
			page, err := c.Marbles(ctx, "", 100)
			if err != nil {
				return err.Error()
			}
			for _, m := range page.Marbles {
				if len(s.edges[edge{name, m.Name}]) == 0 {
					continue
				}
				shut := func(t apiv1.ProxyType) bool { return t.Type == "listener" && t.State == "applied" && t.At.After(since) }
				if len(m.Instances) != 1 || !slices.ContainsFunc(m.Instances[0].Proxy.Types, shut) {
					return m.Name + " has the listener of before"
				}
			}
			return ""
		})
	})
}

// restart ends the coordinator and starts it again, under traffic.
func (s *story) restart(ctx context.Context) error {
	began := time.Now()
	if err := s.haltCoordinator(); err != nil {
		return err
	}
	if err := s.startCoordinator(ctx); err != nil {
		return err
	}
	answered := time.Since(began)
	if err := s.settle(ctx); err != nil {
		return err
	}
	s.say("coordinator restarted: it answered after %s, every proxy was back after %s", answered.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	return nil
}

// recover starts the coordinator where nothing opens its state, and has two
// holders send their shares.
func (s *story) recover(ctx context.Context) error {
	began := time.Now()
	if err := s.haltCoordinator(); err != nil {
		return err
	}
	if err := s.startCoordinator(ctx); err != nil {
		return err
	}
	if _, err := s.dial(ctx, "", nil); err == nil {
		return fmt.Errorf("the coordinator opened its state without shares")
	}
	for _, user := range []string{"carol", "bob"} {
		if err := s.give(ctx, user); err != nil {
			return fmt.Errorf("the share of %s: %w", user, err)
		}
	}
	err := s.await(ctx, "the coordinator serves", func() string {
		c, err := s.dial(ctx, "", nil)
		if err != nil {
			return err.Error()
		}
		c.Close()
		return ""
	})
	if err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	s.say("state recovered with the shares of bob and carol; every proxy was back %s after the coordinator had ended", time.Since(began).Round(time.Millisecond))
	return nil
}

// give sends a holder's share to the coordinator that waits for it.
func (s *story) give(ctx context.Context, user string) error {
	r, err := client.DialRecovery(ctx, clientAddr, apiv1.PurposeRecover, s.options())
	if err != nil {
		return err
	}
	defer r.Close()
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	h := shares.Holder{User: user, Key: s.keys[user], Signer: s.users[user].PrivateKey.(crypto.Signer), Random: rand.Reader}
	share, err := h.Approve(*status.Document, r.Statement.Session, s.clock.now())
	if err != nil {
		return err
	}
	_, err = r.Send(ctx, share)
	return err
}

// verify reads the whole log as an auditor, and holds it against the first
// checkpoint that anybody saw.
func (s *story) verify(ctx context.Context) error {
	c, err := s.dial(ctx, "", &s.first)
	if err != nil {
		return fmt.Errorf("as a client that remembers the first checkpoint: %w", err)
	}
	defer c.Close()
	if cas, err := c.CAs(ctx); err != nil || len(cas.Older) > 0 {
		return fmt.Errorf("the overlap has passed, and %d older roots are trusted (%v)", len(cas.Older), err)
	}
	var export bytes.Buffer
	log := c.Log(ctx)
	if err := log.Export(ctx, &export, func(uint64) {}); err != nil {
		return err
	}
	report, err := transparency.VerifyExport(&export, transparency.ExportInput{Log: log.Key()})
	if err != nil {
		return err
	}
	if err := report.Err(); err != nil {
		return err
	}
	s.say("the log of %d records verifies, from the first checkpoint on; %d revisions of the manifest are linked", log.Checkpoint().Size, len(report.Revisions))
	return nil
}
