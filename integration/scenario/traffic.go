package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	workers    = 8
	askTimeout = 5 * time.Second
	pause      = 4 * time.Millisecond // of a worker, between two requests
)

var routes = []string{"GET /open", "GET /closed"}

// everything is every request that some rule could let pass, both ways.
func everything() []ask {
	var all []ask
	for _, from := range names {
		for _, to := range names {
			for _, route := range routes {
				if from != to {
					all = append(all, ask{from, to, route, false}, ask{from, to, route, true})
				}
			}
		}
	}
	return all
}

// likely are requests that are allowed at some time, made as often as all others
// together.
var likely = []ask{
	{"front", "orders", "GET /open", false}, {"front", "orders", "GET /open", true}, {"orders", "stock", "GET /open", false}, {"orders", "stock", "GET /open", true},
	{"orders", "ledger", "GET /open", false}, {"visitor", "front", "GET /open", false}, {"visitor", "front", "GET /open", true},
	{"front", "stock", "GET /open", false}, {"front", "stock", "GET /closed", false}, {"front", "stock", "GET /closed", true},
}

// traffic makes every request again and again, until it is stopped.
type traffic struct {
	services map[string]*service
	checker  *checker
	stop     context.CancelFunc
	work     sync.WaitGroup
	kept     map[string]*http.Client // by caller: connections that stay open

	mu      sync.Mutex         // guards what follows
	waiting [workers]time.Time // since when each worker waits for an answer; zero if it does not
}

func drive(services map[string]*service, c *checker) *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	t := &traffic{services: services, checker: c, stop: cancel, kept: map[string]*http.Client{}}
	for _, n := range names {
		t.kept[n] = &http.Client{Timeout: askTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	}
	asks := make(chan ask)
	t.work.Go(func() {
		defer close(asks)
		all := everything()
		for i := 0; ; i++ {
			for _, a := range []ask{all[i%len(all)], likely[i%len(likely)]} {
				select {
				case asks <- a:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	for i := range workers {
		t.work.Go(func() {
			for a := range asks {
				o := outcome{ask: a, began: t.wait(i, time.Now())}
				err := t.make(a)
				t.wait(i, time.Time{})
				o.ended, o.passed = time.Now(), err == nil
				if err != nil {
					o.why = err.Error()
				}
				t.checker.note(o)
				time.Sleep(pause)
			}
		})
	}
	return t
}

func (t *traffic) wait(worker int, since time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting[worker] = since
	return since
}

// answered reports whether every request that was made before a moment has its
// answer.
func (t *traffic) answered(before time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, since := range t.waiting {
		if !since.IsZero() && since.Before(before) {
			return false
		}
	}
	return true
}

func (t *traffic) halt() {
	t.stop()
	t.work.Wait()
	for _, c := range t.kept {
		c.CloseIdleConnections()
	}
}

// make makes one request. It is nil only if the callee itself has answered.
func (t *traffic) make(a ask) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	method, path, _ := strings.Cut(a.route, " ")
	client, url := t.kept[a.from], fmt.Sprintf("http://%s:%d%s", loopback(a.from), callPort(a.to), path)
	if a.direct {
		url = fmt.Sprintf("https://%s:%d%s", address(a.to), servedPort, path)
		transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13,
			Certificates: []tls.Certificate{*t.services[a.from].certificate()}, InsecureSkipVerify: true}, //nolint:gosec // whether the callee takes the caller is the question
			DialContext: (&net.Dialer{Timeout: askTimeout}).DialContext}
		client = &http.Client{Transport: transport}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%d %.200s", resp.StatusCode, body)
	case string(body) != a.to+" "+a.route:
		return errors.New("answered by " + string(body))
	}
	return nil
}
