package fetch

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Limits of the client.
const (
	attempts       = 4                // for one document
	attemptTimeout = 10 * time.Second // from dialling to the last byte
	firstPause     = 250 * time.Millisecond
	longestPause   = 5 * time.Second
	longestPenance = 10 * time.Minute // of what a service may ask for with Retry-After
	atOnce         = 4                // requests under way to one service
	maxBody        = 1 << 20          // bytes
	maxHeaders     = 64 << 10         // bytes; issuer chains come in them
	maxShared      = 64               // documents
)

// DefaultShare is how long what several platforms have in common is not asked
// for again.
const DefaultShare = time.Minute

// Client asks one service, politely: few requests at once, each with a deadline
// and a size limit, repeated after growing and jittered pauses, and none at all
// while the service has asked for patience. Sets of several platforms that have
// a document in common share one request. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	http  *http.Client
	slots chan struct{}
	group singleflight.Group
	now   func() time.Time
	share time.Duration
	pause func(context.Context, time.Duration) bool

	mu     sync.Mutex
	until  time.Time // the service asked to be left alone until then
	shared map[string]sharedReply
}

type sharedReply struct {
	reply reply
	at    time.Time
}

// reply is what a service answered, with status 200.
type reply struct {
	header http.Header
	body   []byte
}

// ClientConfig says which service to ask. Only URL is required.
type ClientConfig struct {
	URL string // http or https, without user information
	Now func() time.Time
	// Share is how long a document is given to other sets too without asking
	// again; DefaultShare if zero.
	Share time.Duration
	// Pause waits before a request is repeated, and reports false if the context
	// ended first; nil: a timer.
	Pause func(context.Context, time.Duration) bool
}

// newClient checks the address. No document is trusted for the connection that
// it came over, so http is accepted too.
func newClient(c ClientConfig) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("wanted an address such as https://pccs.example:8081, without user information") // it may hold a password: not repeated
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Pause == nil {
		c.Pause = pause.For
	}
	if c.Share <= 0 {
		c.Share = DefaultShare
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = maxHeaders
	transport.MaxConnsPerHost = atOnce
	return &Client{base: u, slots: make(chan struct{}, atOnce), now: c.Now, share: c.Share, pause: c.Pause, shared: map[string]sharedReply{},
		http: &http.Client{Transport: transport, Timeout: attemptTimeout, CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Host != u.Host || len(via) > 3 {
				return errors.New("redirected to another host")
			}
			return nil
		}}}, nil
}

// name is the service's address as logs show it.
func (c *Client) name() string { return c.base.Scheme + "://" + c.base.Host + c.base.Path }

// get asks for a document; everybody who wants it waits for one request, which
// ends with the context of whoever came first. Errors are ATT-064 (no answer),
// ATT-065 (another answer than a document), ATT-066 (throttled) and ATT-067 (no
// such document).
func (c *Client) get(ctx context.Context, address string) (reply, error) {
	c.mu.Lock()
	if s, ok := c.shared[address]; ok && c.now().Sub(s.at) < c.share && !c.now().Before(s.at) {
		c.mu.Unlock()
		return s.reply, nil
	}
	c.mu.Unlock()
	got, err, _ := c.group.Do(address, func() (any, error) {
		r, err := c.persist(ctx, address)
		if err == nil {
			c.keep(address, r)
		}
		return r, err
	})
	r, _ := got.(reply)
	return r, err
}

func (c *Client) keep(address string, r reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.shared) >= maxShared {
		clear(c.shared)
	}
	c.shared[address] = sharedReply{r, c.now()}
}

// persist repeats a request that may succeed later.
func (c *Client) persist(ctx context.Context, address string) (reply, error) {
	wait := firstPause
	var last error
	for attempt := range attempts {
		if attempt > 0 {
			// Jittered, so that many who failed together do not return together.
			if !c.pause(ctx, wait/2+rand.N(wait)) {
				return reply{}, last
			}
			wait = min(2*wait, longestPause)
		}
		if err := c.patience(ctx); err != nil {
			return reply{}, err
		}
		r, again, err := c.once(ctx, address)
		if err == nil || !again {
			return r, err
		}
		last = err
	}
	return reply{}, last
}

// patience waits until the service may be asked again, if that is soon.
func (c *Client) patience(ctx context.Context) error {
	c.mu.Lock()
	rest := c.until.Sub(c.now())
	c.mu.Unlock()
	if rest <= 0 || rest > longestPenance { // more is never granted: the clock was put back
		return nil
	}
	throttled := problem.New("ATT-066", "%s asked to be left alone for another %s", c.name(), rest.Round(time.Second))
	if rest > longestPause {
		return throttled
	}
	if !c.pause(ctx, rest) {
		return throttled
	}
	return nil
}

// once makes one request. It says whether a failure may pass.
func (c *Client) once(ctx context.Context, address string) (reply, bool, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return reply{}, false, problem.Because(ctx.Err(), "ATT-064", "waiting for a turn to ask %s", c.name())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return reply{}, false, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{}, ctx.Err() == nil, problem.Because(err, "ATT-064", "asking %s", c.name())
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	switch {
	case resp.StatusCode == http.StatusOK:
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
		if len(body) > maxBody {
			return reply{}, false, problem.New("ATT-065", "%s sent more than %d bytes", c.name(), maxBody)
		}
		if err != nil {
			return reply{}, ctx.Err() == nil, problem.Because(err, "ATT-064", "reading what %s sent", c.name())
		}
		return reply{resp.Header, body}, false, nil
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		wait := c.leaveAlone(resp.Header.Get("Retry-After"))
		return reply{}, true, problem.New("ATT-066", "%s answered %s and asked for %s of patience", c.name(), resp.Status, wait)
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusBadRequest, resp.StatusCode == http.StatusGone:
		return reply{}, false, problem.New("ATT-067", "%s answered %s to %s", c.name(), resp.Status, req.URL.Path)
	case resp.StatusCode >= 500:
		return reply{}, true, problem.New("ATT-064", "%s answered %s", c.name(), resp.Status)
	}
	return reply{}, false, problem.New("ATT-065", "%s answered %s", c.name(), resp.Status)
}

// leaveAlone notes that the service wants no requests for a while; Retry-After
// is seconds or a date (RFC 9110, 10.2.3).
func (c *Client) leaveAlone(header string) time.Duration {
	wait := firstPause
	if n, err := strconv.Atoi(header); err == nil && n >= 0 {
		wait = time.Duration(min(n, int(longestPenance/time.Second))) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		wait = at.Sub(c.now())
	}
	wait = max(firstPause, min(wait, longestPenance))
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := c.now().Add(wait); until.After(c.until) {
		c.until = until
	}
	return wait
}
