package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/charts"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// documents returns every Markdown file of the repository by its path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "build" || d.Name() == "testdata" || d.Name() == ".git" || d.Name() == ".ashlar") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			found[path] = string(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 5 {
		t.Fatalf("found only %d documents", len(found))
	}
	return found
}

var inlineCode = regexp.MustCompile("`(ashlar [^`]+)`")

// TestCommandLinesInDocumentsParse looks at each line of a code block that
// begins with ashlar, and at each such piece of inline code.
func TestCommandLinesInDocumentsParse(t *testing.T) {
	checked := 0
	check := func(path, line string) {
		checked++
		if err := parses(t, line); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for path, text := range documents(t) {
		text = strings.ReplaceAll(text, "\\\n", "")
		inBlock := false
		for line := range strings.Lines(text) {
			trimmed := strings.TrimSpace(line)
			if strings.HasPrefix(trimmed, "```") {
				inBlock = !inBlock
				continue
			}
			if command := strings.TrimPrefix(trimmed, "$ "); inBlock && strings.HasPrefix(command, "ashlar ") {
				check(path, command)
			}
			for _, m := range inlineCode.FindAllStringSubmatch(line, -1) {
				if !inBlock {
					check(path, m[1])
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("found only %d command lines", checked)
	}
}

// named is a command as a sentence names it: ashlar, words and flags.
var named = regexp.MustCompile(`\bashlar((?: [a-z-]+)+)`)

// names checks that a sentence which says ashlar COMMAND --flag means a command,
// and flags that it has. Where the command ends and the sentence goes on is not
// known, so arguments are not looked at.
func names(t *testing.T, words []string) error {
	t.Helper()
	c, rest, err := unheard().root().Find(words)
	if err != nil || !c.HasParent() {
		return errors.Join(errors.New("no such command"), err)
	}
	c.InitDefaultHelpFlag()
	for _, w := range rest {
		if w == "and" || w == "or" {
			break
		}
		flag, isFlag := strings.CutPrefix(w, "--")
		if isFlag && c.Flag(flag) == nil && c.InheritedFlags().Lookup(flag) == nil {
			return fmt.Errorf("%s has no flag %s", c.CommandPath(), w)
		}
	}
	return nil
}

// TestCommandsThatTextsNameExist looks at the next steps of all codes and at what
// the chart says.
func TestCommandsThatTextsNameExist(t *testing.T) {
	texts := map[string]string{}
	for _, e := range problem.All() {
		texts[string(e.Code)] = e.Next
	}
	for _, path := range []string{"templates/NOTES.txt", "values.yaml", "files/alerts-coordinator.yaml", "files/alerts-injector.yaml", "files/dashboard.json"} {
		b, err := fs.ReadFile(charts.Ashlar, "ashlar/"+path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(b)
	}
	checked := 0
	for from, text := range texts {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			words := strings.Fields(m[1])
			if words[0] == "and" {
				continue // both programs
			}
			checked++
			if err := names(t, words); err != nil {
				t.Errorf("%s: ashlar%s: %v", from, m[1], err)
			}
		}
	}
	if checked < 50 {
		t.Errorf("found only %d commands", checked)
	}
}

var anyCode = regexp.MustCompile(`\b(?:ATT|MAN|CRD|STO|MSH|MRB|CLI|REP|KUB|REC|LOG|SEC|GOV|INC)-\d{3}\b`)

func TestCodesInDocumentsExist(t *testing.T) {
	for path, text := range documents(t) {
		for _, code := range anyCode.FindAllString(text, -1) {
			if !problem.Known(problem.Code(code)) {
				t.Errorf("%s names %s, which is no code", path, code)
			}
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	fenced  = regexp.MustCompile("(?ms)^```.*?^```")
	dropped = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the fragments that GitHub gives a document's headings.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		found[strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return found
}

func TestLinksInDocumentsLead(t *testing.T) {
	docs := documents(t)
	for path, text := range docs {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			target, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
				continue
			}
			if fragment != "" && !anchors(docs[file])[fragment] {
				t.Errorf("%s links to %s, which has no such heading", path, m[1])
			}
		}
	}
}
