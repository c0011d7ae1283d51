package term

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// columns is the width that all text output keeps to.
const columns = 80

// gap is the space between two columns of a table.
const gap = 2

// narrowest is the width below which no cell is shortened.
const narrowest = 8

// width is what a line may take up beside its prefix.
func (p *Printer) width() int {
	if p.Simulation {
		return columns - len(simulation)
	}
	return columns
}

var escape = regexp.MustCompile("\x1b\\[[0-9;]*m")

// visible is the number of columns that s takes up on a terminal.
func visible(s string) int { return utf8.RuneCountInString(escape.ReplaceAllString(s, "")) }

// fold breaks lines that are wider than width at spaces. What follows a break is
// indented by four columns more than its line. A word that is wider than a line
// stays whole.
func fold(text string, width int) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if visible(line) > width {
			lines[i] = foldLine(line, width)
		}
	}
	return strings.Join(lines, "\n")
}

func foldLine(line string, width int) string {
	body := strings.TrimLeft(line, " ")
	indent := line[:len(line)-len(body)]
	var done strings.Builder
	current := indent
	for i, word := range strings.Split(body, " ") {
		switch {
		case i == 0:
			current += word
		case visible(current)+1+visible(word) <= width || strings.TrimSpace(current) == "":
			current += " " + word
		default:
			done.WriteString(strings.TrimRight(current, " ") + "\n")
			current = indent + "    " + word
		}
	}
	return done.String() + current
}

// fit shortens the cells of the widest columns until a row fits into width.
func fit(rows [][]string, width int) [][]string {
	widths := columnWidths(rows)
	if len(widths) < 2 {
		return rows
	}
	for total(widths) > width {
		widest := 0
		for i, w := range widths {
			if w > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= narrowest {
			break
		}
		widths[widest]--
	}
	out := make([][]string, len(rows))
	for i, r := range rows {
		out[i] = make([]string, len(r))
		for j, cell := range r {
			out[i][j] = elide(cell, widths[j])
		}
	}
	return out
}

func columnWidths(rows [][]string) []int {
	var widths []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], visible(cell))
		}
	}
	return widths
}

func total(widths []int) int {
	sum := gap * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	return sum
}

// elide shortens s to width columns: a long hexadecimal value keeps its first
// and last eight digits or fewer, a path of fields its beginning and its end, other
// text its beginning.
func elide(s string, width int) string {
	r := []rune(s)
	if len(r) <= width || strings.Contains(s, "\x1b") {
		return s
	}
	if isHex(s) {
		half := min(8, (width-1)/2)
		return s[:half] + "…" + s[len(s)-half:]
	}
	if fieldPath.MatchString(s) {
		head := (width - 1) / 2
		if file := strings.LastIndex(s, " ") + 1; file > head && file < width-narrowest {
			head = file
		}
		return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
	}
	return string(r[:width-1]) + "…"
}

// fieldPath is the path of a field, perhaps with its document before it.
var fieldPath = regexp.MustCompile(`^([!-~]+:[0-9]+ )?[a-zA-Z]+([.\[][!-~]+){2,}$`)

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdefABCDEF") == ""
}
