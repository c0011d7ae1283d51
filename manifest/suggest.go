package manifest

import (
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
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
		if d := nearest.Distance(got, c, distance); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}
