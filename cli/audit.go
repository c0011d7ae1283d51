package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func (a *app) auditCmd() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Read the log of decisions, prove an entry, verify the whole",
		Example: "  ashlar audit tail\n  ashlar audit list --kind manifestSet\n  ashlar audit prove 42 --out entry.tlog-proof\n  ashlar audit export log.jsonl && ashlar audit verify log.jsonl",
		Long: `The log is an RFC 6962 Merkle tree: every decision of the coordinator is an
entry, and the coordinator's evidence vouches for its newest checkpoint. Each
command here checks what it shows against that checkpoint.

Anybody sees the public part of an entry. Users of the manifest (--cert, --key)
see the private part too: verdicts, and whom a refusal was about.`}
	c.AddCommand(a.auditTailCmd(), a.auditListCmd(), a.auditProveCmd(), a.auditExportCmd(), a.auditVerifyCmd())
	return c
}

// entryFilter narrows the entries that are shown.
type entryFilter struct {
	kinds, subjects []string
	since, until    string
	after, before   time.Time
}

func (f *entryFilter) register(c *cobra.Command) {
	c.Flags().StringSliceVar(&f.kinds, "kind", nil, "only entries of this kind, such as manifestSet; may be repeated")
	c.Flags().StringSliceVar(&f.subjects, "subject", nil, "only entries about this marble, user or digest; may be repeated")
}

// parse reads the times.
func (f *entryFilter) parse() error {
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"since", f.since, &f.after}, {"until", f.until, &f.before}} {
		if t.text == "" {
			continue
		}
		at, err := evidence.ParseTime(t.text)
		if err != nil {
			return usage("--%s %q is no time: want RFC 3339 such as 2026-01-15T00:00:00Z, or a date", t.flag, t.text)
		}
		*t.to = at
	}
	return nil
}

func (f *entryFilter) matches(e client.Logged) bool {
	switch {
	case len(f.kinds) > 0 && !slices.Contains(f.kinds, e.Kind):
		return false
	case len(f.subjects) > 0 && !slices.Contains(f.subjects, e.Subject):
		return false
	case !f.after.IsZero() && e.Time.Before(f.after):
		return false
	}
	return f.before.IsZero() || !e.Time.After(f.before)
}

func (a *app) auditTailCmd() *cobra.Command {
	var f entryFilter
	var user userFlags
	var lines int
	var every time.Duration
	c := &cobra.Command{Use: "tail", Short: "Show new entries as they come", Example: "  ashlar audit tail\n  ashlar audit tail --kind activationRefused -o json | jq .",
		Long: `Shows the newest entries and then each that is added, until interrupted. With
-o json, each entry is one line. Whenever the log has grown, it must begin with
what was shown; if it does not, the command ends with exit code 3.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case every < 100*time.Millisecond:
				return usage("--every %s: want at least 100ms", every)
			case a.p.Format == term.YAML:
				return usage("tail writes text or, with -o json, lines of JSON")
			}
			u, err := user.load()
			if err != nil {
				return err
			}
			cl, err := a.dial(c.Context(), u)
			if err != nil {
				return err
			}
			defer cl.Close()
			return a.auditTail(c.Context(), cl, tailing{f, max(lines, 0), every})
		}}
	f.register(c)
	user.register(c)
	c.Flags().IntVarP(&lines, "lines", "n", 10, "how many entries to begin with")
	c.Flags().DurationVar(&every, "every", 2*time.Second, "how often to ask")
	return c
}

type tailing struct {
	filter entryFilter
	lines  int
	every  time.Duration
}

func (a *app) auditTail(ctx context.Context, cl *client.Client, t tailing) error {
	log := cl.Log(ctx)
	shown, err := a.newest(ctx, log, t.filter, t.lines)
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(shown) {
		a.entryLine(e)
	}
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for at := log.Checkpoint().Size; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		grown, err := log.Grown(ctx)
		if err == nil {
			at, err = a.entriesFrom(ctx, grown, at, t.filter)
			log = grown
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case away(err):
			a.report(err) // a coordinator that is away for a moment does not end the tail
		case err != nil:
			return err
		}
	}
}

// away says whether a coordinator could not be reached, or wants to be left alone
// for a moment.
func away(err error) bool {
	if err == nil {
		return false
	}
	kind := problem.From(err).Kind()
	return kind == problem.Unavailable || kind == problem.Busy
}

// entriesFrom shows the entries from place at on, and returns where it came.
func (a *app) entriesFrom(ctx context.Context, log *client.Log, at uint64, f entryFilter) (uint64, error) {
	for at < log.Checkpoint().Size {
		entries, err := log.Entries(ctx, at)
		if err != nil {
			return at, err
		}
		for _, e := range entries {
			if f.matches(e) {
				a.entryLine(e)
			}
		}
		at += uint64(len(entries))
	}
	return at, nil
}

// entryLine shows one entry on one line.
func (a *app) entryLine(e client.Logged) {
	if a.p.Format == term.JSON {
		b, err := json.Marshal(entryDocument(e))
		if err == nil {
			fmt.Fprintf(a.p.Out, "%s\n", b) // a line of JSON is not prefixed
		}
		return
	}
	mark := a.p.Green(term.OK)
	if e.Code != "" {
		mark = a.p.Red(term.Bad)
	}
	a.p.Raw(strings.Join([]string{strconv.FormatUint(e.Seq, 10), e.Time.UTC().Format(time.RFC3339), mark, e.Kind, orDash(a.p.Value(e.Subject)),
		orDash(e.Actor), term.Line(a.p.Sentence(entryText(e)))}, "  ") + "\n")
}

// entryText is what an entry says, with what only users of the manifest see.
func entryText(e client.Logged) string {
	text := e.Text
	if text == "" && e.Private != nil {
		text = e.Private.Text
	}
	if e.Code != "" {
		text = strings.TrimSpace(e.Code + " " + text)
	}
	if text == "" && e.Decision != "" {
		text = e.Decision
	}
	return aboutReplica(e, text)
}

// aboutReplica adds which of several coordinators an entry is about.
func aboutReplica(e client.Logged, text string) string {
	name := e.Details["instance"]
	switch e.Kind {
	case "start":
		if as := e.Details["replica"]; as != "" {
			return text + " as " + as
		}
	case "replicaAccepted":
		return name + " got the key of the state: " + text
	case "replicaRefused":
		return name + " was refused the key of the state: " + text
	}
	return text
}

// entryDocument is an entry as JSON, in the log's own words.
func entryDocument(e client.Logged) any {
	doc := struct {
		Entry   json.RawMessage `json:"entry"`
		Private json.RawMessage `json:"private,omitempty"`
	}{e.Raw, e.RawPrivate}
	return doc
}

func (a *app) auditListCmd() *cobra.Command {
	var f entryFilter
	var user userFlags
	var limit int
	var from int64
	c := &cobra.Command{Use: "list", Short: "List entries of the log", Example: "  ashlar audit list\n  ashlar audit list --kind manifestSet --since 2026-01-01\n  ashlar audit list --from 0 --limit 20",
		Long: "The newest entries that match, in the order of the log; or with --from, the\nfirst that match from a place on.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.parse(); err != nil {
				return err
			}
			if limit < 1 || limit > maxListed {
				return usage("--limit %d: want 1 to %d", limit, maxListed)
			}
			return a.withUser(c.Context(), user, func(cl *client.Client) error {
				return a.auditList(c.Context(), cl, f, limit, from)
			})
		}}
	f.register(c)
	user.register(c)
	c.Flags().StringVar(&f.since, "since", "", "only entries of this time or later, RFC 3339 or a date")
	c.Flags().StringVar(&f.until, "until", "", "only entries of this time or earlier")
	c.Flags().IntVar(&limit, "limit", 50, "how many entries at most")
	c.Flags().Int64Var(&from, "from", -1, "begin at this place instead of at the end")
	return c
}

// maxListed bounds --limit.
const maxListed = 10_000

func (a *app) auditList(ctx context.Context, cl *client.Client, f entryFilter, limit int, from int64) error {
	log := cl.Log(ctx)
	var found []client.Logged
	var err error
	if from >= 0 {
		found, err = first(ctx, log, f, uint64(from), limit)
	} else {
		found, err = a.newest(ctx, log, f, limit)
		slices.Reverse(found)
	}
	if err != nil {
		return err
	}
	documents := make([]any, len(found))
	rows := make([][]string, len(found))
	header := []string{"ENTRY", "WHEN", "KIND", "SUBJECT", "TEXT", "ACTOR"}
	if a.p.TTY && a.p.Format != term.Wide {
		header = header[:5] // 80 columns
	}
	for i, e := range found {
		documents[i] = entryDocument(e)
		rows[i] = []string{strconv.FormatUint(e.Seq, 10), a.p.Since(e.Time), e.Kind, orDash(a.shortSubject(e.Subject)), term.Line(a.p.Sentence(entryText(e))), orDash(e.Actor)}[:len(header)]
	}
	if done, err := a.p.Structured(struct {
		Size    uint64 `json:"size"`
		Entries []any  `json:"entries"`
	}{log.Checkpoint().Size, documents}); done {
		return err
	}
	a.p.Table(header, rows)
	a.p.Notef("%d of %d entries\n", len(found), log.Checkpoint().Size)
	return nil
}

// shortSubject shortens a subject that is a digest.
func (a *app) shortSubject(s string) string {
	if len(s) == 64 && a.p.Value(s) != s {
		return a.p.Digest(s)
	}
	return s
}

// first returns the entries that match from a place on.
func first(ctx context.Context, log *client.Log, f entryFilter, at uint64, limit int) ([]client.Logged, error) {
	var found []client.Logged
	for at < log.Checkpoint().Size {
		entries, err := log.Entries(ctx, at)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if f.matches(e) {
				if found = append(found, e); len(found) == limit {
					return found, nil
				}
			}
		}
		at += uint64(len(entries))
	}
	return found, nil
}

// newest returns the entries that match, newest first.
func (a *app) newest(ctx context.Context, log *client.Log, f entryFilter, limit int) ([]client.Logged, error) {
	var found []client.Logged
	for end := log.Checkpoint().Size; end > 0 && len(found) < limit; {
		start := (end - 1) / pageOfEntries * pageOfEntries
		var page []client.Logged
		for at := start; at < end; {
			entries, err := log.Entries(ctx, at)
			if err != nil {
				return nil, err
			}
			page = append(page, entries...)
			at += uint64(len(entries))
		}
		for _, e := range slices.Backward(page[:end-start]) {
			if !f.after.IsZero() && e.Time.Add(maxDisorder).Before(f.after) {
				return found, nil
			}
			if f.matches(e) && len(found) < limit {
				found = append(found, e)
			}
		}
		end = start
	}
	return found, nil
}

const (
	pageOfEntries = 256 // entries of a tile
	// maxDisorder is how far the times of entries may be out of order: clocks are
	// set back.
	maxDisorder = time.Hour
)
