package cli

import (
	"maps"
	"slices"
)

// suggestion returns "did you mean PREFIXname?" for the closest candidate, or
// the fallback.
func suggestion(word string, candidates []string, prefix, fallback string) string {
	if best, ok := closest(word, candidates); ok {
		return "did you mean " + prefix + best + "?"
	}
	return fallback
}

func didYouMean(word string, candidates []string) string {
	return suggestion(word, candidates, "", "")
}

// closest returns the candidate within edit distance 3 (and less than half of
// the word's length, rounded up) that differs least; the first one wins.
func closest(word string, candidates []string) (string, bool) {
	best, distance := "", min(3, (len(word)+1)/2)+1
	for _, c := range candidates {
		if d := editDistance(word, c); d < distance {
			best, distance = c, d
		}
	}
	return best, best != ""
}

// editDistance is the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func sortedNames[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
