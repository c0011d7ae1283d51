package manifest

import (
	"fmt"
	"strings"
)

// didYouMean returns `did you mean "x"?` for the candidate nearest to got, or
// "" if none is near. Candidates must be sorted for a stable answer.
func (r *reporter) didYouMean(got string, candidates []string) string {
	best, distance := "", 1+max(1, len(got)/3)
	for _, c := range candidates {
		if r.work--; r.work < 0 {
			break
		}
		if strings.EqualFold(c, got) {
			best = c
			break
		}
		if d := editDistance(got, c, distance); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// editDistance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b, up to limit.
func editDistance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit || len(a) > 128 {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
