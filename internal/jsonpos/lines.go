package jsonpos

import (
	"bytes"
	"sort"
	"unicode/utf8"
)

// Lines turns byte offsets of a document into lines and columns.
type Lines struct {
	raw    []byte
	starts []int // offset of each line's first byte
}

// NewLines indexes a document, which must not change afterwards.
func NewLines(raw []byte) *Lines {
	starts := make([]int, 1, 1+bytes.Count(raw, []byte{'\n'}))
	for i := 0; ; {
		next := bytes.IndexByte(raw[i:], '\n')
		if next < 0 {
			return &Lines{raw: raw, starts: starts}
		}
		i += next + 1
		starts = append(starts, i)
	}
}

// Line returns the 1-based line of an offset.
func (l *Lines) Line(offset int) int {
	return sort.SearchInts(l.starts, offset+1)
}

// Position returns the 1-based line of an offset and its 1-based column in
// characters (Unicode code points).
func (l *Lines) Position(offset int) (line, column int) {
	offset = min(max(offset, 0), len(l.raw))
	line = l.Line(offset)
	return line, 1 + utf8.RuneCount(l.raw[l.starts[line-1]:offset])
}

// Text returns a line without its line break; "" if there is no such line.
func (l *Lines) Text(line int) string {
	if line < 1 || line > len(l.starts) {
		return ""
	}
	end := len(l.raw)
	if line < len(l.starts) {
		end = l.starts[line] - 1
	}
	return string(bytes.TrimSuffix(l.raw[l.starts[line-1]:end], []byte{'\r'}))
}
