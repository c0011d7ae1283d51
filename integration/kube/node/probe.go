//go:build linux

package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ashlar-mesh/ashlar/internal/pause"
)

// probe asks a running container as its probes say, until the context ends.
func (c *container) probe(ctx context.Context, r *process) {
	if c.spec.StartupProbe != nil {
		if !c.repeat(ctx, r, "Startup", c.spec.StartupProbe, func(ok bool) bool {
			if ok {
				c.set(func() { c.started, c.ready = true, c.spec.ReadinessProbe == nil })
			} else {
				go c.end(r)
			}
			return true
		}) {
			return
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.repeat(ctx, r, "Liveness", c.spec.LivenessProbe, func(ok bool) bool {
			if !ok {
				c.end(r)
			}
			return !ok
		})
	}()
	c.repeat(ctx, r, "Readiness", c.spec.ReadinessProbe, func(ok bool) bool {
		c.set(func() { c.ready = ok })
		return false
	})
	<-done
}

// repeat asks one probe and calls verdict each time that a threshold is met,
// until verdict is content. It reports whether it was and the verdict good.
func (c *container) repeat(ctx context.Context, r *process, name string, p *core.Probe, verdict func(bool) bool) bool {
	if p == nil {
		return false
	}
	wait := time.Duration(p.InitialDelaySeconds) * time.Second
	var good, bad int32
	for {
		if !pause.For(ctx, wait) {
			return false
		}
		wait = time.Duration(max(1, p.PeriodSeconds)) * time.Second
		err := c.ask(ctx, r, p)
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			good, bad = 0, bad+1
			c.p.n.event(ctx, c.p.seen(), "Unhealthy", name+" probe failed: "+err.Error())
		} else {
			good, bad = good+1, 0
		}
		if good >= max(1, p.SuccessThreshold) && verdict(true) {
			return true
		}
		if bad >= max(1, p.FailureThreshold) && verdict(false) {
			return false
		}
	}
}

// ask makes one attempt.
func (c *container) ask(ctx context.Context, r *process, p *core.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(max(1, p.TimeoutSeconds))*time.Second)
	defer cancel()
	switch {
	case p.HTTPGet != nil:
		return c.get(ctx, p.HTTPGet)
	case p.TCPSocket != nil:
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.host(p.TCPSocket.Host, p.TCPSocket.Port))
		if err == nil {
			conn.Close()
		}
		return err
	case p.Exec != nil:
		return r.exec(ctx, p.Exec.Command)
	}
	return errors.New("this kind of probe is not known here")
}

func (c *container) host(host string, port intstr.IntOrString) string {
	if host == "" {
		host = c.p.net.ip
	}
	number := port.IntValue()
	for _, named := range c.spec.Ports {
		if port.Type == intstr.String && named.Name == port.StrVal {
			number = int(named.ContainerPort)
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(number))
}

func (c *container) get(ctx context.Context, g *core.HTTPGetAction) error {
	path := "/" + strings.TrimPrefix(g.Path, "/")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.ToLower(string(g.Scheme))+"://"+c.host(g.Host, g.Port)+path, nil)
	if err != nil {
		return err
	}
	for _, h := range g.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // as a kubelet
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return fmt.Errorf("HTTP probe failed with statuscode: %d %s", resp.StatusCode, strings.TrimSpace(string(b)))
	}
	return nil
}

// exec runs a command in the container.
func (r *process) exec(ctx context.Context, command []string) error {
	args := []string{"--target", strconv.Itoa(r.cmd.Process.Pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd",
		"--setuid", strconv.Itoa(r.user), "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, command...)...)
	cmd.Env = r.env
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out[:min(len(out), 512)])))
	}
	return nil
}
