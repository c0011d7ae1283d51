package importer

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
)

// The forms of names in a manifest.
var (
	environmentName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	filePath        = regexp.MustCompile(`^(/[^/\x00-\x1f\x7f]+)+$`)
	dnsName         = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	advisory        = regexp.MustCompile(`^INTEL-(SA|DOC)-[0-9]{5}$`)
)

const maxName = 63

// namer gives each name of the source a name of its own that a manifest allows.
type namer struct {
	first, rest func(rune) bool
	lower       bool
	fill, head  string // for characters that are not allowed, and before a name that can't begin as it does
	given       map[string]string
	taken       map[string]bool
	next        map[string]int // by name that is taken: the number to try
}

func lowerOrDigit(c rune) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
func letter(c rune) bool       { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func letterOrDigit(c rune) bool {
	return letter(c) || c >= '0' && c <= '9'
}

// objectNames are names of packages, platforms, marbles and ports.
func objectNames() *namer {
	return &namer{first: lowerOrDigit, rest: func(c rune) bool { return lowerOrDigit(c) || strings.ContainsRune("._-", c) },
		lower: true, fill: "-", head: "x", given: map[string]string{}, taken: map[string]bool{}, next: map[string]int{}}
}

// secretNames are names of secrets.
func secretNames() *namer {
	return &namer{first: letter, rest: func(c rune) bool { return letterOrDigit(c) || c == '_' },
		fill: "_", head: "s", given: map[string]string{}, taken: map[string]bool{}, next: map[string]int{}}
}

// principalNames are names of users and roles.
func principalNames() *namer {
	return &namer{first: letterOrDigit, rest: func(c rune) bool { return letterOrDigit(c) || strings.ContainsRune("._@-", c) },
		fill: "-", head: "x", given: map[string]string{}, taken: map[string]bool{}, next: map[string]int{}}
}

// name returns what stands for a name of the source, always the same.
func (n *namer) name(source string) string { return n.as(source, source) }

// as is name for names that are no keys by themselves.
func (n *namer) as(key, s string) string {
	if got, ok := n.given[key]; ok {
		return got
	}
	if n.lower {
		s = strings.ToLower(s)
	}
	var b strings.Builder
	for i, c := range s {
		switch {
		case i == 0 && !n.first(c):
			b.WriteString(n.head)
			fallthrough
		case i > 0 && !n.rest(c):
			if n.rest(c) {
				b.WriteRune(c)
			} else {
				b.WriteString(n.fill)
			}
		default:
			b.WriteRune(c)
		}
	}
	s = b.String()
	if s == "" {
		s = n.head
	}
	s = s[:min(len(s), maxName)]
	got := s
	for n.taken[got] {
		n.next[s] = max(2, n.next[s]+1)
		end := n.fill + strconv.Itoa(n.next[s])
		got = s[:min(len(s), maxName-len(end))] + end
	}
	n.given[key], n.taken[got] = got, true
	return got
}

// renamed says in a report that a name had to change.
func renamed(source, name string) string {
	if source == name {
		return ""
	}
	return fmt.Sprintf("named %s here", name)
}

// measurement reads 32 bytes in hexadecimal.
func measurement(s string) (attest.Hex, bool) {
	b, err := hex.DecodeString(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(s)), "0x"))
	return attest.Hex(b), err == nil && len(b) == 32
}

// statuses writes a platform's list: sorted, each once.
func statuses(list []attest.TCBStatus) []attest.TCBStatus {
	slices.Sort(list)
	return slices.Compact(list)
}

// advisories reads a list of Intel's advisories. Others are left out: the list
// says what is accepted, so that refuses more, not less.
func advisories(items []value, became string) []string {
	got := []string{}
	for _, item := range items {
		id := strings.ToUpper(strings.TrimSpace(item.text()))
		switch {
		case !advisory.MatchString(id):
			item.note(Dropped, "", "no advisory of Intel's: it stays refused")
		case len(got) >= 256:
			item.note(Stricter, "", "more than 256 advisories can't be listed: it stays refused")
		default:
			item.maps(became)
			got = append(got, id)
		}
	}
	slices.Sort(got)
	return slices.Compact(got)
}
