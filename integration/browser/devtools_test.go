package browser

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// chromium finds the browser: $ASHLAR_CHROMIUM, or one of the usual names.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("ASHLAR_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			return path
		}
	}
	t.Fatal("there is no Chromium here: install it, or name it in ASHLAR_CHROMIUM")
	return ""
}

// page is one page of a headless browser, driven over the DevTools protocol:
// JSON messages that end with a zero byte, on two pipes.
type page struct {
	t    *testing.T
	to   *os.File
	wait time.Duration
	done chan struct{} // closed when the browser has gone

	mu       sync.Mutex // guards what follows
	next     int
	waiting  map[int]chan message
	session  string
	requests []string // addresses that the page asked for
	faults   []string // of the console
}

type message struct {
	ID     int             `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
	Session string `json:"sessionId,omitempty"`
}

// open starts a browser with an empty page. Both end with the test.
func open(t *testing.T) *page {
	t.Helper()
	in, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(chromium(t), "--headless=new", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
		"--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe", "--user-data-dir="+t.TempDir(), "about:blank")
	cmd.ExtraFiles = []*os.File{in, out} // descriptors 3 and 4 there
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	out.Close()
	p := &page{t: t, to: to, wait: time.Minute, done: make(chan struct{}), waiting: map[int]chan message{}}
	go p.read(from)
	t.Cleanup(func() {
		to.Close() // the browser ends when its pipe does
		end := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		end.Stop()
		<-p.done
		from.Close()
		if t.Failed() {
			for line := range strings.Lines(said.String()) {
				if !strings.Contains(line, "dbus") { // which no test machine has
					t.Logf("the browser said: %s", line)
				}
			}
		}
	})
	var target struct {
		ID string `json:"targetId"`
	}
	p.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct {
		ID string `json:"sessionId"`
	}
	p.call("Target.attachToTarget", map[string]any{"targetId": target.ID, "flatten": true}, &attached)
	p.mu.Lock()
	p.session = attached.ID
	p.mu.Unlock()
	for _, domain := range []string{"Page", "Network", "Runtime", "Log", "DOM"} {
		p.call(domain+".enable", nil, nil)
	}
	return p
}

// read sorts what the browser sends until it goes.
func (p *page) read(from *os.File) {
	defer close(p.done)
	r := bufio.NewReader(from)
	for {
		raw, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(raw[:len(raw)-1], &m) != nil {
			continue
		}
		p.mu.Lock()
		if c := p.waiting[m.ID]; m.ID != 0 && c != nil {
			delete(p.waiting, m.ID)
			c <- m
		}
		p.event(m)
		p.mu.Unlock()
	}
}

// event notes what the page asked for and complained about.
func (p *page) event(m message) {
	var e struct {
		Request struct {
			URL string `json:"url"`
		} `json:"request"`
		Entry struct {
			Level, Text string
		} `json:"entry"`
		Details json.RawMessage `json:"exceptionDetails"`
	}
	if json.Unmarshal(m.Params, &e) != nil {
		return
	}
	switch m.Method {
	case "Network.requestWillBeSent":
		p.requests = append(p.requests, e.Request.URL)
	case "Log.entryAdded":
		if e.Entry.Level == "error" {
			p.faults = append(p.faults, e.Entry.Text)
		}
	case "Runtime.exceptionThrown":
		p.faults = append(p.faults, string(e.Details))
	}
}

// call makes one call and decodes its result into out, which may be nil.
func (p *page) call(method string, params any, out any) {
	p.t.Helper()
	if err := p.try(method, params, out); err != nil {
		p.t.Fatalf("%s: %v", method, err)
	}
}

func (p *page) try(method string, params, out any) error {
	raw, err := json.Marshal(params)
	if err != nil {
		return err
	}
	if params == nil {
		raw = nil
	}
	answer := make(chan message, 1)
	p.mu.Lock()
	p.next++
	m := message{ID: p.next, Method: method, Params: raw, Session: p.session}
	p.waiting[m.ID] = answer
	p.mu.Unlock()
	sent, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := p.to.Write(append(sent, 0)); err != nil {
		return err
	}
	select {
	case m = <-answer:
	case <-p.done:
		return errors.New("the browser ended")
	case <-time.After(p.wait):
		return errors.New("no answer in time")
	}
	if m.Error != nil {
		return errors.New(m.Error.Message)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(m.Result, out)
}

// eval returns what a JavaScript expression or promise gives, as text.
func (p *page) eval(expression string) string {
	p.t.Helper()
	var out struct {
		Result struct {
			Value any `json:"value"`
		} `json:"result"`
		Details *struct {
			Text string `json:"text"`
		} `json:"exceptionDetails"`
	}
	p.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &out)
	if out.Details != nil {
		p.t.Fatalf("%s: %s", expression, out.Details.Text)
	}
	return fmt.Sprint(out.Result.Value)
}

// give puts a file into an input of the page, as choosing one does.
func (p *page) give(selector, file string) {
	p.t.Helper()
	var doc struct {
		Root struct {
			ID int `json:"nodeId"`
		} `json:"root"`
	}
	p.call("DOM.getDocument", nil, &doc)
	var node struct {
		ID int `json:"nodeId"`
	}
	p.call("DOM.querySelector", map[string]any{"nodeId": doc.Root.ID, "selector": selector}, &node)
	p.call("DOM.setFileInputFiles", map[string]any{"files": []string{file}, "nodeId": node.ID}, nil)
}

// picture writes a screenshot of the whole page.
func (p *page) picture(file string, dark bool) {
	p.t.Helper()
	scheme := map[bool]string{false: "light", true: "dark"}[dark]
	p.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": 1100, "height": 900, "deviceScaleFactor": 1, "mobile": false}, nil)
	var out struct {
		Data []byte `json:"data"`
	}
	p.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &out)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Data, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// asked returns the addresses that the page asked for, without those of data in
// the address itself.
func (p *page) asked() (requests, faults []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.requests {
		if !strings.HasPrefix(r, "data:") {
			requests = append(requests, r)
		}
	}
	return requests, p.faults
}
