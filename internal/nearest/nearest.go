// Package nearest finds what a misspelt word was meant to be: the one place
// where "did you mean" is decided. It only compares; callers phrase the hint.
package nearest

import "strings"

// maxWord bounds the words that are compared, in bytes: longer ones are no
// misspelt names, and comparing costs the product of the lengths.
const maxWord = 128

// Word returns the candidate that differs least from word, ignoring case, and
// "" if none is near: at most a third of its length may differ, and always one
// edit. Of several equally near ones the first counts.
func Word(word string, candidates []string) string {
	best, limit := "", 1+max(1, len(word)/3)
	for _, c := range candidates {
		if strings.EqualFold(c, word) {
			return c
		}
		if d := Distance(word, c, limit); d < limit {
			best, limit = c, d
		}
	}
	return best
}

// Distance counts the insertions, deletions, replacements and swaps of
// neighbouring bytes that turn a into b (optimal string alignment), and gives up
// at limit.
func Distance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit || len(a) > maxWord {
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
	return min(last[len(b)], limit)
}
