package marble

import (
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// DefaultPort is the coordinator's mesh port, used when an address has none.
const DefaultPort = "2001"

// Config says who a marble is, whom it trusts, and what vouches for it.
type Config struct {
	Marble   string // role in the manifest
	ID       string // UUID of the instance, kept across restarts; at most 64 bytes
	Address  string // IP on which its Envoy, or the program itself, listens for peers
	Loopback string // IP on which its program listens; 127.0.0.1 if empty

	Coordinator string // host:port of the mesh port, or host
	Trust       Trust

	// Issuer makes the evidence for activation and renewal.
	Issuer attest.Issuer
	// Devices make evidence beside it, which Issuer's vouches for; at most
	// attest.MaxDevices, each with a name of its own.
	Devices []attest.DeviceIssuer

	// Tracker learns each stage; Run makes one that logs if it is nil.
	Tracker *stage.Tracker
	Log     *slog.Logger // slog.Default if nil

	Now         func() time.Time // time.Now if nil
	CallTimeout time.Duration    // bounds each exchange with the coordinator and the TEE; 30 s if zero
	Backoff     Backoff          // between attempts
	// Look is how often it looks at the clock, which may jump, while it waits for
	// a moment: 15 s if zero.
	Look time.Duration
}

// Trust says which coordinator is the right one: either one whose certificate
// leads to Root, or one whose evidence is accepted under Policy. The zero Trust
// accepts none.
type Trust struct {
	Root      *x509.Certificate // pinned root CA
	Policy    *attest.Policy    // or: what its evidence must show
	Verifiers attest.Verifiers  // with Policy: the TEEs that it may run in
}

// Backoff bounds the time between attempts, which doubles from Min to Max; the
// actual wait is a random part of it, between half and all.
type Backoff struct {
	Min, Max time.Duration // 500 ms and 30 s if zero
}

var (
	marbleName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9._]{0,61}[a-z0-9])?$`)
	instanceID = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
)

// fill checks the configuration and puts the defaults in.
func (c *Config) fill() error {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Tracker == nil {
		c.Tracker = stage.NewTracker(c.Log, c.Now)
	}
	if c.CallTimeout <= 0 {
		c.CallTimeout = 30 * time.Second
	}
	if c.Backoff.Min <= 0 {
		c.Backoff.Min = 500 * time.Millisecond
	}
	if c.Backoff.Max < c.Backoff.Min {
		c.Backoff.Max = max(30*time.Second, c.Backoff.Min)
	}
	if _, _, err := net.SplitHostPort(c.Coordinator); err != nil && c.Coordinator != "" {
		c.Coordinator = net.JoinHostPort(c.Coordinator, DefaultPort)
	}
	return c.check()
}

func (c *Config) check() error {
	switch {
	case !marbleName.MatchString(c.Marble):
		return problem.New("MRB-001", "marble %q is no name of a marble in a manifest", c.Marble)
	case !instanceID.MatchString(c.ID):
		return problem.New("MRB-001", "instance id %q is no UUID", c.ID)
	case c.Coordinator == "":
		return problem.New("MRB-001", "no coordinator address is given")
	case c.Issuer == nil:
		return problem.New("MRB-001", "no TEE is given that could vouch for the program")
	case len(c.Devices) > attest.MaxDevices:
		return problem.New("MRB-001", "%d devices are given, limit %d", len(c.Devices), attest.MaxDevices)
	case (c.Trust.Root == nil) == (c.Trust.Policy == nil):
		return problem.New("MRB-001", "give the coordinator's root or the policy for its evidence: one of the two")
	case c.Trust.Policy != nil && len(c.Trust.Verifiers) == 0:
		return problem.New("MRB-001", "a policy for the coordinator is given, and no TEE that can be verified")
	}
	for what, ip := range map[string]string{"address": c.Address, "loopback address": c.Loopback} {
		if _, err := netip.ParseAddr(ip); err != nil && ip != "" {
			return problem.New("MRB-001", "%s %q is no IP address", what, ip)
		}
	}
	return nil
}
