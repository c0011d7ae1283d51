package cli

import (
	"maps"
	"slices"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
)

// suggestion returns "did you mean PREFIXname?" for the closest candidate, or
// the fallback.
func suggestion(word string, candidates []string, prefix, fallback string) string {
	if best := nearest.Word(word, candidates); best != "" {
		return "did you mean " + prefix + best + "?"
	}
	return fallback
}

func didYouMean(word string, candidates []string) string {
	return suggestion(word, candidates, "", "")
}

func sortedNames[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
