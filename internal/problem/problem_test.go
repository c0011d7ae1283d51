package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	codeForm    = regexp.MustCompile(`^(ATT|MAN|CRD|GOV|SEC|INC|LOG|REC|STO|MSH|MRB|CLI|KUB|REP)-\d{3}$`)
	codeLiteral = regexp.MustCompile(`"((?:ATT|MAN|CRD|GOV|SEC|INC|LOG|REC|STO|MSH|MRB|CLI|KUB|REP)-\d{3})"`)
)

func TestTableIsWellFormed(t *testing.T) {
	for _, e := range All() {
		if !codeForm.MatchString(string(e.Code)) {
			t.Errorf("code %q is not of the form ABC-123", e.Code)
		}
		if e.Title == "" || strings.HasSuffix(e.Title, ".") {
			t.Errorf("%s: title %q: want one line without a full stop", e.Code, e.Title)
		}
		if strings.ContainsAny(e.Title+e.Next, "|\n") {
			t.Errorf("%s: a text has a bar or a line break", e.Code)
		}
		if e.Kind.ExitCode() == 0 || e.Kind.HTTPStatus() < 400 {
			t.Errorf("%s: kind %d has no exit code or status", e.Code, e.Kind)
		}
	}
}

// TestEveryCodeInTheSourceIsInTheTable and every code of the table is raised.
func TestEveryCodeInTheSourceIsInTheTable(t *testing.T) {
	used := map[Code]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "build" || d.Name() == ".git" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		table := strings.Contains(path, "problem/codes")
		if !strings.HasSuffix(path, ".go") || table || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range codeLiteral.FindAllStringSubmatch(string(src), -1) {
			used[Code(m[1])] = true
			if !Known(Code(m[1])) {
				t.Errorf("%s raises %s, which is not in the table", path, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range All() {
		if !used[e.Code] {
			t.Errorf("%s is in the table, but nothing raises it", e.Code)
		}
	}
}

func TestErrorCrossesAWireWithoutItsCause(t *testing.T) {
	cause := errors.New("disk on fire")
	e := Because(cause, "CRD-001", "saving %s", "x")
	if !errors.Is(e, cause) {
		t.Error("the cause is not reachable through errors.Is")
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var got Error
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Code != "CRD-001" || got.Detail != "saving x: disk on fire" || got.Unwrap() != nil {
		t.Errorf("got %+v over the wire", got)
	}
	if !errors.Is(&got, &Error{Code: "CRD-001"}) {
		t.Error("two errors of one code are not alike")
	}
}

func TestFrom(t *testing.T) {
	inner := New("CRD-001", "inner")
	if got := From(fmt.Errorf("outer: %w", inner)); got != inner {
		t.Errorf("got %v, want the coded error in the chain", got)
	}
	if got := From(errors.New("plain")); got.Code != "CRD-001" || got.Kind() != Internal {
		t.Errorf("got %v, want an internal failure", got)
	}
}
