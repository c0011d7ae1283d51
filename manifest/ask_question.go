package manifest

import (
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// slot is a word of a question that stands for a name of the manifest.
type slot string

const (
	marbleSlot   slot = "MARBLE"
	secretSlot   slot = "SECRET"
	userSlot     slot = "USER"
	platformSlot slot = "PLATFORM"
	rightSlot    slot = "RIGHT"
)

func (s slot) word() string { return strings.ToLower(string(s)) }

// form is one kind of question. A word in brackets may be left out.
type form struct {
	words string
	about bool // asked of a name alone, too
	judge func(a *asker, names []string) (yes bool, why string)
	tell  func(a *asker, names []string) (summary string)
}

// NewlyAllowed is the question that compares two manifests.
const NewlyAllowed = "what does this revision newly allow"

// forms are all questions that can be asked.
var forms = []form{
	{words: "who can call MARBLE", about: true, tell: (*asker).callers},
	{words: "what can MARBLE call", about: true, tell: (*asker).callees},
	{words: "what can MARBLE read", about: true, tell: (*asker).readBy},
	{words: "what can run as MARBLE", about: true, tell: (*asker).software},
	{words: "what can hold the state", tell: (*asker).stateHolders},
	{words: "may MARBLE reach MARBLE", judge: (*asker).reaches},
	{words: "may MARBLE reach MARBLE directly", judge: (*asker).reachesDirectly},
	{words: "may MARBLE reach MARBLE through others", judge: (*asker).reachesThrough},
	{words: "may MARBLE read SECRET", judge: (*asker).reads},
	{words: "who can [ever] read SECRET", about: true, tell: (*asker).readers},
	{words: "which single person could release SECRET", tell: (*asker).releasers},
	{words: "which two people could release SECRET", tell: (*asker).pairs},
	{words: "which single person could let MARBLE reach MARBLE", tell: (*asker).openers},
	{words: "which single person could change the manifest", tell: (*asker).changers},
	{words: "which single person could raise the floor of PLATFORM", about: true, tell: (*asker).raisers},
	{words: "may USER do RIGHT", judge: (*asker).may},
	{words: "what can USER do", about: true, tell: (*asker).rights},
	{words: "who has RIGHT", about: true, tell: (*asker).holders},
	{words: NewlyAllowed, tell: (*asker).newly},
}

// Questions are the forms of all questions that Ask answers. Words in capitals
// stand for names; a word in brackets may be left out.
func Questions() []string {
	all := make([]string, len(forms))
	for i, f := range forms {
		all[i] = f.words
	}
	return all
}

// Compares reports whether a question is about two manifests.
func Compares(question string) bool {
	f, _, err := understand(question)
	return err == nil && f.words == NewlyAllowed
}

// slots are the names that the form asks for, in order.
func (f *form) slots() []slot {
	var all []slot
	for _, w := range strings.Fields(f.words) {
		if isSlot(w) {
			all = append(all, slot(w))
		}
	}
	return all
}

func isSlot(word string) bool { return word == strings.ToUpper(word) }

// with writes the question out, in its longest wording.
func (f *form) with(names []string) string {
	words := strings.Fields(f.words)
	for i, w := range words {
		if isSlot(w) {
			words[i], names = names[0], names[1:]
		}
		words[i] = strings.Trim(words[i], "[]")
	}
	return strings.Join(words, " ")
}

// match reads a question as this form. Keywords are taken in any case, names as
// they are written.
func (f *form) match(asked []string) (names []string, ok bool) {
	for _, w := range strings.Fields(f.words) {
		optional := strings.HasPrefix(w, "[")
		switch {
		case len(asked) == 0:
			return nil, false
		case isSlot(w):
			names = append(names, asked[0])
		case strings.EqualFold(strings.Trim(w, "[]"), asked[0]):
		case optional:
			continue
		default:
			return nil, false
		}
		asked = asked[1:]
	}
	return names, len(asked) == 0
}

// maxQuestion bounds a question, in bytes.
const maxQuestion = 1000

// understand finds the form of a question and the names in it.
func understand(question string) (*form, []string, error) {
	text := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(question), "?"))
	if len(text) > maxQuestion {
		return nil, nil, problem.New("MAN-060", "the question is longer than %d bytes", maxQuestion)
	}
	asked := strings.Fields(text)
	for i := range forms {
		if names, ok := forms[i].match(asked); ok {
			return &forms[i], names, nil
		}
	}
	err := problem.New("MAN-060", "%q is no question that can be asked", printable(clip(text)))
	if meant := closest(asked); meant != "" {
		err = err.WithNext("did you mean %q?", printable(meant))
	}
	return nil, nil, err
}

// closest returns the question that was probably meant, with the names that
// were given; "" if none is near.
func closest(asked []string) string {
	best, least := "", len(asked)/2+1
	for i := range forms {
		if meant, wrong := forms[i].align(asked); wrong < least {
			best, least = meant, wrong
		}
	}
	return best
}

// align lays a question beside the form, word by word, and counts the keywords
// that differ: a misspelt one less than one that is missing.
func (f *form) align(asked []string) (meant string, wrong int) {
	var out []string
	for _, w := range strings.Fields(f.words) {
		key := strings.Trim(w, "[]")
		switch {
		case len(asked) > 0 && isSlot(w):
			out = append(out, asked[0])
		case len(asked) > 0 && (strings.EqualFold(key, asked[0]) || nearest.Word(strings.ToLower(asked[0]), []string{key}) != ""):
			out = append(out, key)
			if !strings.EqualFold(key, asked[0]) {
				wrong++
			}
		case key != w: // may be left out
			continue
		default:
			out = append(out, key)
			wrong += 2
			if isSlot(w) || len(asked) == 0 {
				continue
			}
		}
		asked = asked[1:]
	}
	return strings.Join(out, " "), wrong + 2*len(asked)
}

// known reports whether a name can stand in a slot.
func (a *asker) known(s slot, name string) bool {
	ok := false
	switch s {
	case marbleSlot:
		_, ok = a.m.Marbles[name]
	case secretSlot:
		_, ok = a.m.Secrets[name]
	case userSlot:
		_, ok = a.m.Users[name]
	case platformSlot:
		_, ok = a.m.Platforms[name]
	default:
		_, ok = slices.BinarySearch(a.everyRight(), name)
		ok = ok || a.isRight(name)
	}
	return ok
}

// names are the names that can stand in a slot, sorted.
func (a *asker) names(s slot) []string {
	switch s {
	case marbleSlot:
		return sortedKeys(a.m.Marbles)
	case secretSlot:
		return sortedKeys(a.m.Secrets)
	case userSlot:
		return sortedKeys(a.m.Users)
	case platformSlot:
		return sortedKeys(a.m.Platforms)
	}
	return a.everyRight()
}

// Names are all names of a manifest that About takes, sorted.
func Names(m *Manifest) []string { return newAsker(m, nil, nil).everyName() }

// everyName is all that can be asked about.
func (a *asker) everyName() []string {
	var all []string
	for _, s := range []slot{marbleSlot, secretSlot, userSlot, platformSlot, rightSlot} {
		all = append(all, a.names(s)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// unknown is the error for a name that the manifest has not.
func (a *asker) unknown(what, name string, known []string) error {
	err := problem.New("MAN-061", "the manifest has no %s %q", what, printable(clip(name)))
	r := reporter{work: 50_000}
	if hint := r.didYouMean(name, known); hint != "" {
		return err.WithNext("%s", hint)
	}
	if len(known) > 0 {
		return err.WithNext("it has %s", some(known))
	}
	return err
}
