// Package browser holds the test of the page of samples/browser-verify in a real
// Chromium: what it decides, what it shows, and that it asks nobody.
package browser

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const recorded = "../../coordinator/client/testdata/bundle/" // of a simulated deployment

// site returns where make browser built the page.
func site(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("ASHLAR_SITE")
	if dir == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("ASHLAR_SITE is not set: run make browser")
		}
		t.Skip("ASHLAR_SITE is not set: run make browser")
	}
	return dir
}

// files is what the test serves or gives to the page, by name.
func files(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, name := range []string{"bundle.json", "policy.json"} {
		raw, err := os.ReadFile(recorded + name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = raw
	}
	change := func(name, from, old, new string) {
		if !bytes.Contains(out[from], []byte(old)) {
			t.Fatalf("%s has no %s", from, old)
		}
		out[name] = bytes.Replace(out[from], []byte(old), []byte(new), 1)
	}
	change("tampered.json", "bundle.json", `"revision": 1`, `"revision": 2`)
	program := regexp.MustCompile(`"program": \[\s*"[0-9a-f]{8}`).FindString(string(out["policy.json"]))
	if program == "" {
		t.Fatal("policy.json names no program")
	}
	change("other.json", "policy.json", program, program[:len(program)-8]+"feedbeef")
	change("torn.json", "bundle.json", `"version": 2`, `"version": 2, "more": 1`)
	change("hostile.json", "bundle.json", `"address": "127.0.0.1:4433"`, `"address": "\u003cimg src=x onerror=document.title=1\u003e"`)
	return out
}

// manifestDigest is that of the manifest beside the recorded bundle.
func manifestDigest(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(recorded + "manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// serve is any static server: it knows no types but those of file names.
func serve(t *testing.T, more map[string][]byte) string {
	t.Helper()
	static := http.FileServer(http.Dir(site(t)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, ok := more[strings.TrimPrefix(r.URL.Path, "/")]; ok {
			_, _ = w.Write(body)
			return
		}
		static.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// outcome waits for the page's report and returns what it decided and the text.
func (p *page) outcome() (decided, text string) {
	p.t.Helper()
	decided = p.eval(`new Promise((done) => {
		const look = () => {
			const o = document.getElementById('outcome');
			if (o) { done(o.dataset.outcome); return true; }
			const s = document.getElementById('status');
			if (s && s.textContent.startsWith('This did not work')) { done(s.textContent); return true; }
		};
		if (!look()) new MutationObserver((_, o) => { if (look()) o.disconnect(); }).observe(document, {subtree: true, childList: true, characterData: true});
	})`)
	return decided, p.eval(`document.body.innerText`)
}

func (p *page) visit(address string) {
	p.t.Helper()
	p.call("Page.navigate", map[string]any{"url": address}, nil)
	p.eval(`new Promise((done) => document.readyState === 'complete' ? done(1) : addEventListener('load', () => done(1)))`)
}

func TestPage(t *testing.T) {
	given := files(t)
	base := serve(t, given)
	p := open(t)
	for _, c := range []struct {
		name, query string
		outcome     string
		shows       []string
	}{
		{"verified", "bundle=bundle.json&policy=policy.json", "verified",
			[]string{"Verified", "SIMULATION", "sim.program", "✓ holds", "log.acceptance", manifestDigest(t)}},
		{"tampered", "bundle=tampered.json&policy=policy.json", "refused",
			[]string{"Refused", "CRD-122", "log.acceptance", "✗ fails", "its entry is of revision 1", "attested is revision 2"}},
		{"another policy", "bundle=bundle.json&policy=other.json", "refused", []string{"Refused", "sim.program", "✗ fails", "feedbeef"}},
		{"no policy", "bundle=bundle.json", "unjudged", []string{"Not judged: no policy", "CLI-027"}},
		{"not a bundle", "bundle=torn.json&policy=policy.json", "unreadable", []string{"Cannot be read", "CRD-121"}},
		{"not a policy", "bundle=bundle.json&policy=bundle.json", "unreadable", []string{"Cannot be read", "MAN-"}},
		{"at another time", "bundle=bundle.json&policy=policy.json&at=2040-01-01", "refused", []string{"2040-01-01T00:00:00Z", "✗ fails"}},
		{"text of the bundle's", "bundle=hostile.json&policy=policy.json", "verified", []string{"<img src=x onerror=document.title=1>"}},
		{"missing", "bundle=none.json", "This did not work: bundle: status 404", nil},
		{"elsewhere", "bundle=http://127.0.0.1:1/b.json", "This did not work: bundle is on another server", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.t = t
			p.visit(base + "/?" + c.query)
			got, text := p.outcome()
			if got != c.outcome {
				t.Fatalf("got %q, want %q; the page says:\n%s", got, c.outcome, text)
			}
			for _, want := range c.shows {
				if !strings.Contains(text, want) {
					t.Errorf("the page does not show %q; it says:\n%s", want, text)
				}
			}
			if slices.Contains([]string{"verified", "tampered", "no policy"}, c.name) {
				name := filepath.Join(site(t), "..", "browser-pictures", strings.ReplaceAll(c.name, " ", "-"))
				p.picture(name+"-light.png", false)
				p.picture(name+"-dark.png", true)
			}
		})
	}
	p.t = t
	p.own(base, given)
}

// own checks that the page asked for its own files and those that the address
// named, once and nobody else, and complained of nothing but what is missing.
func (p *page) own(base string, given map[string][]byte) {
	p.t.Helper()
	requests, faults := p.asked()
	allowed := map[string]bool{"": true, "none.json": true}
	for _, name := range []string{"app.js", "style.css", "icon.svg", "wasm_exec.js", "verify.wasm"} {
		allowed[name] = true
	}
	for name := range given {
		allowed[name] = true
	}
	loaded := false
	for _, r := range requests {
		u, err := url.Parse(r)
		if r == "about:blank" {
			continue
		}
		if err != nil || u.Scheme+"://"+u.Host != base || !allowed[strings.TrimPrefix(u.Path, "/")] {
			p.t.Errorf("the page asked for %s", r)
		}
		loaded = loaded || strings.HasSuffix(r, "verify.wasm")
	}
	if !loaded {
		p.t.Errorf("got requests %v, want the verifier among them", requests)
	}
	for _, f := range faults {
		if !strings.Contains(f, "404") {
			p.t.Errorf("the browser complains: %s", f)
		}
	}
}

// TestFiles gives files to the page as a person does, and drops one.
func TestFiles(t *testing.T) {
	given := files(t)
	base := serve(t, nil)
	p := open(t)
	p.visit(base + "/")
	dir := t.TempDir()
	for name, raw := range given {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.give("#policy", filepath.Join(dir, "policy.json"))
	p.give("#bundle", filepath.Join(dir, "bundle.json"))
	if got, text := p.outcome(); got != "verified" {
		t.Fatalf("got %q, want verified; the page says:\n%s", got, text)
	}
	content, err := json.Marshal(string(given["tampered.json"]))
	if err != nil {
		t.Fatal(err)
	}
	p.eval(`document.getElementById('outcome').remove();
		const data = new DataTransfer();
		data.items.add(new File([` + string(content) + `], 'tampered.json'));
		document.getElementById('bundle-drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}))`)
	if got, text := p.outcome(); got != "refused" || !strings.Contains(text, "tampered.json") {
		t.Errorf("dropped: got %q, want refused; the page says:\n%s", got, text)
	}
	p.own(base, nil)
}
