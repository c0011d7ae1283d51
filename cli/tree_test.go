package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/cli/term"
)

// run runs a command line in this process.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(args, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// unheard is the command line, with nobody to hear it.
func unheard() *app {
	return &app{p: &term.Printer{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}, Now: time.Now}}
}

// commands returns every command that a user sees, by its path without "ashlar".
func commands(t *testing.T) map[string]*cobra.Command {
	t.Helper()
	found := map[string]*cobra.Command{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		_, path, _ := strings.Cut(c.CommandPath(), " ")
		if c.Runnable() || c.HasSubCommands() {
			found[path] = c
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(unheard().root())
	return found
}

func TestEveryHelpShowsAnExampleFirst(t *testing.T) {
	for path, c := range commands(t) {
		out, _, code := run(t, append(strings.Fields(path), "--help")...)
		if want := c.Short + "\n\nExample:\n  "; code != 0 || !strings.HasPrefix(out, want) {
			t.Errorf("ashlar %s --help: got exit %d and %.80q, want %q first", path, code, out, want)
		}
		for line := range strings.Lines(out) {
			if line = strings.TrimSuffix(line, "\n"); utf8.RuneCountInString(line) > 80 {
				t.Errorf("ashlar %s --help: a line of %d columns: %s", path, utf8.RuneCountInString(line), line)
			}
		}
		for line := range strings.Lines(c.Example) {
			if err := parses(t, line); err != nil {
				t.Errorf("example of ashlar %s: %v", path, err)
			}
		}
	}
	for _, topic := range []string{"exit-codes", "output", "environment", "trust"} {
		out, _, code := run(t, "help", topic)
		if code != 0 || out == "" {
			t.Errorf("ashlar help %s: exit %d, %q", topic, code, out)
		}
		for line := range strings.Lines(out) {
			if utf8.RuneCountInString(line) > 81 {
				t.Errorf("ashlar help %s: a line of %d columns: %s", topic, utf8.RuneCountInString(line), line)
			}
		}
	}
}

// parses checks that a shell line which begins with ashlar names a command,
// flags that it has, and as many arguments as it takes.
//
// A command that is only named, without arguments, passes.
func parses(t *testing.T, line string) error {
	t.Helper()
	words := shellWords(line)
	if len(words) == 0 || filepath.Base(words[0]) != "ashlar" {
		return nil
	}
	root := unheard().root()
	c, rest, err := root.Find(words[1:])
	if err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	if len(rest) == 1 && (rest[0] == "--help" || rest[0] == "--version") {
		return nil
	}
	if err := c.ParseFlags(rest); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	if c.HasSubCommands() {
		if c.Flags().NArg() > 0 {
			return fmt.Errorf("%s: %s has no command %q", line, c.CommandPath(), c.Flags().Arg(0))
		}
		return nil
	}
	if c.Name() == "help" || len(rest) == 0 {
		return nil
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
}

// shellWords splits the first command of a shell line: up to a pipe, a
// redirection, a list operator or a comment. Words may be quoted.
func shellWords(line string) []string {
	var words []string
	var word strings.Builder
	quote, open := rune(0), false
	end := func() {
		if open {
			words = append(words, word.String())
			word.Reset()
			open = false
		}
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, open = r, true
		case quote == 0 && (r == ' ' || r == '\t' || r == '\n'):
			end()
		case quote == 0 && strings.ContainsRune("|>&;#<", r) && (!open || r == ';'):
			end()
			return words
		default:
			word.WriteRune(r)
			open = true
		}
	}
	end()
	return words
}

// machine says how a command is asked for JSON: its arguments here, or why it
// has none of its own.
var machine = map[string][]string{
	"version": {}, "explain": {"ATT-012"}, "check": {"--pre"},
	"manifest validate": {"MANIFEST"}, "manifest digest": {"MANIFEST"}, "manifest diff": {"MANIFEST", "MANIFEST"},
	"manifest graph": {"MANIFEST"}, "manifest fmt": {"MANIFEST"}, "manifest schema": {}, "cert inspect": {"CERTIFICATE"},
	"manifest who-can": {"web", "--manifest", "MANIFEST"}, "manifest ask": {"may web reach db", "--manifest", "MANIFEST"},
	"manifest import":   {"--from", "scone", "../manifest/importer/testdata/scone.json"},
	"init":              {"--marble", "web=MANIFEST", "--trust-domain", "shop.example", "--dry-run"},
	"inspect":           {"MANIFEST"},
	"install":           {"--render", "--set", "injector.enabled=false"},
	"secret ref":        {"token", "--kubernetes", "db", "--key", "token"},
	"manifest generate": {"-f", "../kube/derive/testdata/shop"},
	"inject":            {"-f", "../kube/inject/testdata/objects.yaml", "--manifest", "../kube/inject/testdata/manifest.json", "--profile", "sim"},
}

// elsewhere are the commands whose JSON is tested with a deployment
// (integration), or that print no table.
var elsewhere = map[string]string{
	"status": "integration", "marble list": "integration", "marble show": "integration", "verify": "integration",
	"manifest set": "integration", "manifest get": "integration", "manifest approve": "integration", "manifest reject": "integration",
	"manifest withdraw": "integration", "manifest proposals": "integration", "manifest history": "integration", "dev up": "integration", "dev down": "integration",
	"plan": "integration", "forecast": "integration", "floor show": "integration", "floor raise": "integration",
	"audit tail": "integration", "audit list": "integration", "audit prove": "integration", "audit export": "integration", "audit verify": "integration",
	"ca show": "integration", "ca rotate": "integration", "ca follow": "integration",
	"secret list": "integration", "secret set": "integration", "secret get": "integration", "secret rotate": "integration",
	"revoke list": "integration", "revoke marble": "integration", "revoke package": "integration", "revoke platform": "integration", "revoke user": "integration",
	"quarantine list": "integration", "quarantine marble": "integration", "break-glass list": "integration", "blast-radius": "integration", "rotate": "integration",
	"endorsements status": "integration", "endorsements import": "integration", "endorsements fetch": "writes a file", "endorsements export": "writes a file",
	"recover status": "integration", "recover key": "writes a file", "recover share": "integration", "recover drill": "integration", "recover accept-rollback": "integration", "backup": "integration",
	"upgrade": "integration/kube", "rollback": "integration/kube", "uninstall": "integration/kube",
	"dev demo": "a story, no table", "dev logs": "lines of logs", "dev platform": "a server", "completion": "a script", "help": "prose",
}

func TestEveryTableHasJSON(t *testing.T) {
	dir := t.TempDir()
	manifest := filepath.Join(dir, "manifest.json")
	if err := os.WriteFile(manifest, []byte(`{"version": 1, "trustDomain": "shop.example",
		"packages": {"p": {"sim": {"program": ["`+strings.Repeat("00", 32)+`"]}}},
		"marbles": {"web": {"package": "p", "calls": [{"marble": "db", "port": "sql"}]}, "db": {"package": "p", "serves": {"sql": {"port": 5432}}}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	certificate := "../attest/attesttest/testdata/evidence/synthetic/sgx/synthetic-ok/root_ca.pem"
	for path, c := range commands(t) {
		args, here := machine[path]
		switch {
		case c.HasSubCommands():
			continue
		case !here && elsewhere[path] == "":
			t.Errorf("ashlar %s: say in this test how it is asked for JSON", path)
			continue
		case !here:
			continue
		}
		line := strings.Fields(path)
		for _, arg := range args {
			line = append(line, strings.NewReplacer("MANIFEST", manifest, "CERTIFICATE", certificate).Replace(arg))
		}
		for _, format := range []string{"json", "yaml"} {
			out, errs, _ := run(t, append(line, "-o", format)...)
			var v any
			unmarshal := json.Unmarshal
			if format == "yaml" {
				unmarshal = func(b []byte, v any) error { return yaml.Unmarshal(b, v) }
			}
			if err := unmarshal([]byte(out), &v); err != nil || v == nil {
				t.Errorf("ashlar %s -o %s: %v\n%s%s", strings.Join(line, " "), format, err, out, errs)
			}
		}
	}
	for path := range machine {
		if commands(t)[path] == nil {
			t.Errorf("ashlar %s does not exist any more", path)
		}
	}
}
