package command

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

const readyUsage = `Asks a marble that runs here whether its program may be sent work.

  ashlar-marble ready

usage: ashlar-marble ready [--ready-addr ADDRESS]

Prints the stage with its reason, and exits 0 if it is ready and 1 if it is not:
a probe for images without curl. ADDRESS ($ASHLAR_READY_ADDR) is that of
ashlar-marble run.
`

const (
	readyLimit  = 5 * time.Second
	readyAnswer = 64 << 10 // bytes
)

// ready asks the marble at its address, and returns the exit code.
func ready(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) (int, error) {
	f := flag.NewFlagSet("ready", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	address := f.String("ready-addr", getenv("ASHLAR_READY_ADDR"), "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, _ = io.WriteString(stdout, readyUsage) // help on a closed pipe
			return 0, nil
		}
		return 0, suggest(f, err)
	}
	if f.NArg() > 0 || *address == "" {
		return 0, problem.New("MRB-001", "where is the marble asked? give --ready-addr or ASHLAR_READY_ADDR, and nothing else")
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	s, code, err := ask(ctx, *address)
	if err != nil {
		return 0, problem.Because(err, "MRB-070", "asking at %s", *address)
	}
	line := string(s.Stage)
	if s.Reason != "" {
		line += ": " + s.Reason
	}
	if s.Code != "" {
		line += "  " + s.Code
	}
	_, _ = fmt.Fprintln(stdout, printable(strings.ReplaceAll(line, "\n", " "))) // on a closed pipe
	if code != http.StatusOK {
		return 1, nil
	}
	return 0, nil
}

// ask gets the stage from an address that a marble listens on.
func ask(ctx context.Context, address string) (stage.Status, int, error) {
	network, host := "unix", "marble"
	if !strings.HasPrefix(address, "/") {
		network, address = "tcp", reachable(address)
		host = address
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: readyAnswer,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/ready", nil)
	if err != nil {
		return stage.Status{}, 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return stage.Status{}, 0, err
	}
	defer response.Body.Close() //nolint:errcheck // read only
	var s stage.Status
	if err := json.NewDecoder(io.LimitReader(response.Body, readyAnswer)).Decode(&s); err != nil || s.Stage == "" {
		return s, 0, fmt.Errorf("no marble answers there: status %d", response.StatusCode)
	}
	return s, response.StatusCode, nil
}

// reachable names the loopback where a marble listens on all addresses.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip == netip.IPv4Unspecified():
		host = "127.0.0.1"
	case err == nil && ip == netip.IPv6Unspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
