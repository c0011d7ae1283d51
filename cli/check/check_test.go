package check

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestRun(t *testing.T) {
	pass := func(context.Context) Finding { return Finding{} }
	fail := func(context.Context) Finding { return FromError(problem.New("CLI-004", "no answer")) }
	warn := func(context.Context) Finding { return Warn("CLI-021", "clocks differ") }
	r := Run(t.Context(), time.Second, []Check{
		{Category: "a", Name: "first", Run: pass},
		{Category: "a", Name: "second", Run: warn},
		{Category: "b", Name: "third", Run: fail},
		{Category: "b", Name: "fourth", Fatal: true, Run: fail},
		{Category: "b", Name: "fifth", Run: func(context.Context) Finding { t.Error("ran after a fatal failure"); return Finding{} }},
	})
	if r.Passed != 1 || r.Warnings != 1 || r.Failed != 2 || r.Skipped != 1 || len(r.Results) != 5 {
		t.Errorf("got %+v, want 1 passed, 1 warning, 2 failed, 1 skipped", r)
	}
	var out bytes.Buffer
	r.Print(&term.Printer{Out: &out, Format: term.Text})
	for _, want := range []string{"a\n", "✓ first", "! warning: clocks differ", "✗ failed: no answer", "next: check the address, or raise --timeout  CLI-004",
		"- skipped: fifth", "1 passed, 1 warning, 2 failed, 1 skipped"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %q, want %q in it", out.String(), want)
		}
	}
}

func TestEachCheckHasItsOwnTime(t *testing.T) {
	late := func(ctx context.Context) Finding {
		<-ctx.Done()
		return FromError(ctx.Err())
	}
	r := Run(t.Context(), time.Millisecond, []Check{{Name: "late", Run: late}, {Name: "next", Run: func(ctx context.Context) Finding {
		if ctx.Err() != nil {
			return FromError(ctx.Err())
		}
		return Finding{}
	}}})
	if r.Failed != 1 || r.Passed != 1 {
		t.Errorf("got %+v, want the late one failed and the next one passed", r)
	}
}
