package stage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/ashlar-mesh/ashlar/marble/stage"
)

const (
	askTimeout  = 2 * time.Second
	dialTimeout = time.Second
	maxAnswer   = 8 << 10 // bytes
)

// newClient returns the client that pods are asked with. It goes where it is
// sent, by no proxy and no redirection, and keeps no connection.
func newClient() *http.Client {
	return &http.Client{
		Timeout:       askTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:       (&net.Dialer{Timeout: dialTimeout}).DialContext,
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 4 << 10,
		},
	}
}

// ask returns what the marble at an address says of itself, and whether it says
// so with 200. The words in it are the pod's: nobody has looked at them.
func ask(ctx context.Context, c *http.Client, address string) (*stage.Status, bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/ready", nil)
	if err != nil {
		return nil, false, fmt.Errorf("asking %s: %w", address, err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, false, fmt.Errorf("asking %s: %w", address, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, false, fmt.Errorf("reading the answer of %s: %w", address, err)
	}
	s, err := parse(resp.StatusCode, body)
	if err != nil {
		return nil, false, fmt.Errorf("the answer of %s: %w", address, err)
	}
	return s, resp.StatusCode == http.StatusOK, nil
}

// parse reads an answer of at most maxAnswer bytes.
func parse(code int, body []byte) (*stage.Status, error) {
	if code != http.StatusOK && code != http.StatusServiceUnavailable {
		return nil, fmt.Errorf("status %d", code)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("more than %d bytes", maxAnswer)
	}
	var s stage.Status
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, err
	}
	return &s, nil
}
