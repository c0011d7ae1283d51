package kube

import (
	"regexp"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// said is what somebody told about a pod in one line of text.
type said struct {
	code problem.Code // empty if it names none that we know
	text string
	next string // empty if it says none
}

var codeIn = regexp.MustCompile(`\b([A-Z]{3}-\d{3})\b`)

// heard takes such a line apart: "KUB-074 no such marble; next: set a manifest",
// or "evidence refused: rtmr1 differs (ATT-012); next: ashlar explain web/7f2c".
func heard(line string) said {
	text, next, _ := strings.Cut(line, "; next: ")
	s := said{text: text, next: strings.TrimSpace(next)}
	for _, m := range codeIn.FindAllStringIndex(text, -1) {
		code := problem.Code(text[m[0]:m[1]])
		if !problem.Known(code) {
			continue
		}
		s.code = code
		before, after := strings.TrimSuffix(text[:m[0]], "("), strings.TrimPrefix(strings.TrimLeft(text[m[1]:], ":)"), " ")
		s.text = before + after
		break
	}
	s.text = strings.TrimSpace(s.text)
	return s
}

// refused is what kept a pod from being created.
type refused struct {
	said
	by   string // the webhook that refused; empty if it was somebody else
	away bool   // the webhook was not there to be asked
}

// deniedBy and uncalled are how an API server reports a webhook.
var (
	deniedBy = regexp.MustCompile(`admission webhook "([^"]+)" denied the request(?:: )?`)
	uncalled = regexp.MustCompile(`failed calling webhook "([^"]+)": `)
)

// refusalOf reads the API server's message about a pod that it did not create.
func refusalOf(message string) refused {
	if m := uncalled.FindStringSubmatchIndex(message); m != nil {
		return refused{said: said{text: strings.TrimPrefix(message[m[1]:], "failed to call webhook: ")}, by: message[m[2]:m[3]], away: true}
	}
	if m := deniedBy.FindStringSubmatchIndex(message); m != nil {
		return refused{said: heard(message[m[1]:]), by: message[m[2]:m[3]]}
	}
	return refused{said: said{text: message}}
}
