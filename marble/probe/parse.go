package probe

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// The probes of a program, by the kubelet's names.
const (
	Readiness = "readiness"
	Liveness  = "liveness"
	Startup   = "startup"
)

// Limits on what is parsed.
const (
	maxDocument = 64 << 10 // bytes
	maxValues   = 200
	maxURL      = 4 << 10 // bytes
	maxTimeout  = 60      // seconds
)

// defaultTimeout is the kubelet's.
const defaultTimeout = time.Second

// Set is what the program is asked, by the name of the probe.
type Set map[string]Target

// Target is one of the program's own probes.
type Target struct {
	URL     *url.URL // http, or tcp without a path; the host is a loopback address
	Headers http.Header
	Timeout time.Duration
}

// Parse reads a JSON object of probes by name, each a URL or an object with url,
// headers and timeoutSeconds. Nothing is no probe. The error is MRB-062.
func Parse(raw string) (Set, error) {
	if raw == "" {
		return nil, nil
	}
	if len(raw) > maxDocument {
		return nil, problem.New("MRB-062", "%d bytes, limit %d", len(raw), maxDocument)
	}
	root, faults := jsonpos.Parse([]byte(raw), jsonpos.Limits{Depth: 4, Values: maxValues})
	if len(faults) > 0 {
		return nil, problem.Because(faults[0], "MRB-062", "it is no JSON document")
	}
	if root.Kind != jsonpos.Object {
		return nil, problem.New("MRB-062", "got %s, want an object", root.Kind)
	}
	set := Set{}
	for _, m := range root.Members {
		if err := known(m.Key, Readiness, Liveness, Startup); err != nil {
			return nil, problem.Because(err, "MRB-062", "probes")
		}
		target, err := parseTarget(m.Value)
		if err != nil {
			return nil, problem.Because(err, "MRB-062", "%s", m.Key)
		}
		set[m.Key] = target
	}
	return set, nil
}

func known(key string, keys ...string) error {
	if slices.Contains(keys, key) {
		return nil
	}
	if best := nearest.Word(key, keys); best != "" {
		return fmt.Errorf("unknown key %.40q: did you mean %q?", key, best)
	}
	return fmt.Errorf("unknown key %.40q, wanted one of %s", key, strings.Join(keys, ", "))
}

func parseTarget(n *jsonpos.Node) (Target, error) {
	t := Target{Timeout: defaultTimeout}
	var err error
	if n.Kind == jsonpos.String {
		t.URL, err = parseURL(n.Text)
		return t, err
	}
	if n.Kind != jsonpos.Object {
		return t, fmt.Errorf("got %s, want a URL or an object", n.Kind)
	}
	for _, m := range n.Members {
		switch {
		case m.Key == "url" && m.Value.Kind == jsonpos.String:
			t.URL, err = parseURL(m.Value.Text)
		case m.Key == "headers" && m.Value.Kind == jsonpos.Object:
			t.Headers, err = parseHeaders(m.Value.Members)
		case m.Key == "timeoutSeconds" && m.Value.Kind == jsonpos.Number:
			t.Timeout, err = parseTimeout(m.Value.Text)
		default:
			if err = known(m.Key, "url", "headers", "timeoutSeconds"); err == nil {
				err = fmt.Errorf("%s is of the wrong type: %s", m.Key, m.Value.Kind)
			}
		}
		if err != nil {
			return t, err
		}
	}
	switch {
	case t.URL == nil:
		return t, errors.New("url is missing")
	case t.URL.Scheme == "tcp" && t.Headers != nil:
		return t, errors.New("headers are for http")
	}
	return t, nil
}

// parseURL takes http://IP:PORT/PATH and tcp://IP:PORT of a loopback address:
// nobody but the program is asked.
func parseURL(text string) (*url.URL, error) {
	const form = "want http://127.0.0.1:PORT/PATH or tcp://127.0.0.1:PORT"
	if len(text) > maxURL {
		return nil, fmt.Errorf("url of %d bytes, limit %d", len(text), maxURL)
	}
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("url %.80q: %s", text, form)
	}
	at, err := netip.ParseAddrPort(u.Host)
	switch {
	case err != nil || at.Port() == 0 || at.Addr().Zone() != "":
		return nil, fmt.Errorf("url %.80q: %s", text, form)
	case !at.Addr().IsLoopback():
		return nil, fmt.Errorf("url %.80q: %s is no loopback address: %s", text, at.Addr(), form)
	case u.Scheme == "http", u.Scheme == "tcp" && u.Path == "" && u.RawQuery == "":
		return u, nil
	}
	return nil, fmt.Errorf("url %.80q: %s", text, form)
}

// callerHeader is by what Envoy tells the program which marble calls. Who gives
// probes, the host, may not call as one; some servers read _ as -.
const callerHeader = "X-Forwarded-Client-Cert"

func parseHeaders(members []jsonpos.Member) (http.Header, error) {
	headers := http.Header{}
	for _, m := range members {
		if m.Value.Kind != jsonpos.String || !httpguts.ValidHeaderFieldName(m.Key) || !httpguts.ValidHeaderFieldValue(m.Value.Text) {
			return nil, fmt.Errorf("header %.40q is not valid", m.Key)
		}
		if strings.EqualFold(strings.ReplaceAll(m.Key, "_", "-"), callerHeader) {
			return nil, fmt.Errorf("header %s says who calls: a probe is nobody", callerHeader)
		}
		headers.Add(m.Key, m.Value.Text)
	}
	return headers, nil
}

func parseTimeout(text string) (time.Duration, error) {
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 1 || seconds > maxTimeout {
		return 0, fmt.Errorf("timeoutSeconds %.20s, want a whole number from 1 to %d", text, maxTimeout)
	}
	return time.Duration(seconds) * time.Second, nil
}
