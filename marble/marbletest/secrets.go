package marbletest

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// hook returns the behaviour for a call under a verified leaf.
func (c *Coordinator) hook(ctx context.Context) (Behaviour, error) {
	p, _ := peer.FromContext(ctx)
	if info, ok := p.AuthInfo.(credentials.TLSInfo); !ok || len(info.State.VerifiedChains) == 0 {
		return Behaviour{}, status.Error(codes.Unauthenticated, "no leaf was shown")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.behaviour, nil
}

func call[In, Out any](ctx context.Context, c *Coordinator, in In, of func(Behaviour) func(In) (Out, error)) (Out, error) {
	var none Out
	b, err := c.hook(ctx)
	if err != nil {
		return none, err
	}
	f := of(b)
	if f == nil {
		return none, status.Error(codes.Unimplemented, "this coordinator has no secrets")
	}
	out, err := f(in)
	if err != nil {
		return none, marblepb.Status(err)
	}
	return out, nil
}

// Fetch implements marblepb.MarbleServer.
func (c *Coordinator) Fetch(ctx context.Context, r *marblepb.FetchRequest) (*marblepb.FetchResponse, error) {
	return call(ctx, c, r, func(b Behaviour) func(*marblepb.FetchRequest) (*marblepb.FetchResponse, error) { return b.Fetch })
}

// Use implements marblepb.MarbleServer.
func (c *Coordinator) Use(ctx context.Context, r *marblepb.UseRequest) (*marblepb.UseResponse, error) {
	return call(ctx, c, r, func(b Behaviour) func(*marblepb.UseRequest) (*marblepb.UseResponse, error) { return b.Use })
}

// Deposit implements marblepb.MarbleServer.
func (c *Coordinator) Deposit(ctx context.Context, r *marblepb.DepositRequest) (*marblepb.DepositResponse, error) {
	return call(ctx, c, r, func(b Behaviour) func(*marblepb.DepositRequest) (*marblepb.DepositResponse, error) { return b.Deposit })
}
