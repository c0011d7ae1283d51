// Package check runs a list of checks by category and says of each that does
// not hold what to do next. A check is data: what it needs, what it found.
package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// MaxSkew is how far two clocks may differ before it is worth a word: leaves are
// valid from a minute before they are issued.
const MaxSkew = 30 * time.Second

// State is how a check ended.
type State string

// The states. Skipped means that a check it depends on failed.
const (
	Passed  State = "passed"
	Warned  State = "warning"
	Failed  State = "failed"
	Skipped State = "skipped"
)

// Check is one thing to look at.
type Check struct {
	Category string
	Name     string // what is so when it passes: "answers on its client port"
	// Fatal skips the rest of its list when it fails.
	Fatal bool
	Run   func(ctx context.Context) Finding
	// Each is Run for what finds several things, or nothing worth a word.
	Each func(ctx context.Context) []Finding
}

// Finding is what a check found. The zero Finding is a pass.
type Finding struct {
	State State
	Text  string       // replaces the name, to say what was found
	Code  problem.Code // of a warning or failure; its next step is the default
	Next  string
}

// Few names the first of a list, for a finding that stays readable.
func Few(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// Count is a number with the right form of a word: "1 node", "3 nodes".
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Pass returns a finding that holds, with what was found.
func Pass(format string, args ...any) Finding {
	return Finding{State: Passed, Text: fmt.Sprintf(format, args...)}
}

// Warn returns a finding that somebody should look at.
func Warn(code problem.Code, format string, args ...any) Finding {
	return Finding{State: Warned, Code: code, Text: fmt.Sprintf(format, args...), Next: problem.Lookup(code).Next}
}

// WithNext replaces the next step by one that fits the case better.
func (f Finding) WithNext(next string) Finding {
	f.Next = next
	return f
}

// Fail returns a finding that does not hold.
func Fail(code problem.Code, format string, args ...any) Finding {
	return Finding{State: Failed, Code: code, Text: fmt.Sprintf(format, args...), Next: problem.Lookup(code).Next}
}

// FromError returns a failure that says what err says.
func FromError(err error) Finding {
	e := problem.From(err)
	return Finding{State: Failed, Code: e.Code, Text: e.Detail, Next: e.Next}
}

// Result is a check that was run.
type Result struct {
	Category string       `json:"category"`
	Name     string       `json:"name"`
	State    State        `json:"state"`
	Text     string       `json:"text"`
	Code     problem.Code `json:"code,omitempty"`
	Next     string       `json:"next,omitempty"`
}

// Report is the outcome of a list.
type Report struct {
	Results  []Result `json:"results"`
	Passed   int      `json:"passed"`
	Warnings int      `json:"warnings"`
	Failed   int      `json:"failed"`
	Skipped  int      `json:"skipped"`
}

// Run runs the checks of one list in order, each with its own time limit.
func Run(ctx context.Context, limit time.Duration, checks []Check) Report {
	var r Report
	stopped := false
	for _, c := range checks {
		if stopped {
			r.add(c, Finding{State: Skipped})
			continue
		}
		for _, f := range runOne(ctx, limit, c) {
			stopped = stopped || c.Fatal && f.State == Failed
			r.add(c, f)
		}
	}
	return r
}

func runOne(ctx context.Context, limit time.Duration, c Check) []Finding {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if c.Each != nil {
		return c.Each(ctx)
	}
	return []Finding{c.Run(ctx)}
}

// Append adds the results of another list.
func (r *Report) Append(o Report) {
	r.Results = append(r.Results, o.Results...)
	r.Passed += o.Passed
	r.Warnings += o.Warnings
	r.Failed += o.Failed
	r.Skipped += o.Skipped
}

func (r *Report) add(c Check, f Finding) {
	if f.State == "" {
		f.State = Passed
	}
	if f.Text == "" {
		f.Text = c.Name
	}
	r.Results = append(r.Results, Result{c.Category, c.Name, f.State, f.Text, f.Code, f.Next})
	switch f.State {
	case Passed:
		r.Passed++
	case Warned:
		r.Warnings++
	case Failed:
		r.Failed++
	case Skipped:
		r.Skipped++
	}
}

// Print writes the report by category.
func (r Report) Print(p *term.Printer) {
	category := ""
	for _, x := range r.Results {
		if x.Category != category {
			category = x.Category
			p.Printf("%s\n", p.Bold(category))
		}
		word := ""
		if x.State != Passed {
			word = string(x.State) + ": "
		}
		p.Printf("  %s %s\n", mark(p, x.State), word+p.Sentence(x.Text))
		switch {
		case x.Next != "":
			p.Printf("    next: %s  %s\n", x.Next, x.Code)
		case x.Code != "":
			p.Printf("    %s\n", x.Code)
		}
	}
	plural := "s"
	if r.Warnings == 1 {
		plural = ""
	}
	p.Printf("%d passed, %d warning%s, %d failed, %d skipped\n", r.Passed, r.Warnings, plural, r.Failed, r.Skipped)
}

func mark(p *term.Printer, s State) string {
	switch s {
	case Passed:
		return p.Green(term.OK)
	case Warned:
		return p.Yellow(term.Warn)
	case Failed:
		return p.Red(term.Bad)
	}
	return "-"
}
