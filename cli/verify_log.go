package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
)

// logDocument is what verify says of the log, as JSON.
type logDocument struct {
	Key     string          `json:"key"`
	Size    uint64          `json:"size"`
	Root    attest.Hex      `json:"root"`
	History *client.History `json:"history,omitempty"`
}

func logOf(v client.Verified) logDocument {
	return logDocument{Key: v.Statement.LogKey, Size: v.Checkpoint.Size, Root: v.Checkpoint.Root[:], History: v.History}
}

// entriesToRead is how many entries verify reads at most: many to come from what
// is remembered to today, and fewer at the first contact.
func entriesToRead(remembered *client.Remembered) uint64 {
	if remembered == nil {
		return client.DefaultEntries
	}
	return client.MaxEntries
}

// logLines says what was checked of the log.
func (a *app) logLines(v client.Verified) {
	p, ok := a.p, a.p.Green(term.OK)
	p.Printf("log           %s %d entries, signed by %s\n", ok, v.Checkpoint.Size, v.Checkpoint.Origin)
	h := v.History
	if h == nil {
		return
	}
	since := h.Size - h.Since
	switch {
	case h.Remembered && since == 0:
		p.Printf("  remembered  %s the same as when it was seen last\n", ok)
	case h.Remembered:
		p.Printf("  remembered  %s begins with the %d entries that were seen; %d since: %s\n", ok, h.Since, since, counted(h.Kinds))
	case !h.Read:
		p.Printf("  manifest    %s more entries came after its own than are read at the first contact\n", p.Yellow(term.Warn))
	case v.Statement.Revision > 0:
		p.Printf("  manifest    %s no other was set in the %d entries after its own\n", ok, since)
	}
	for _, r := range h.Revisions {
		p.Printf("  revision %-3d%s %s, entry %d\n", r.Number, ok, p.Digest(r.Digest), r.Seq)
	}
	if len(h.Witnessed) > 0 {
		p.Printf("  witnessed   %s %d entries\n", ok, h.WitnessedSize)
		a.witnessLines(h.Witnessed)
	}
}

// counted lists numbers by name, the largest first.
func counted(kinds map[string]int) string {
	names := slices.Sorted(maps.Keys(kinds))
	slices.SortStableFunc(names, func(a, b string) int { return kinds[b] - kinds[a] })
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = fmt.Sprintf("%d %s", kinds[name], name)
	}
	return strings.Join(texts, ", ")
}
