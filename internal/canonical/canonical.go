// Package canonical reads JSON documents of which there is one form for each
// content: what json.Marshal writes.
//
// It owns that rule, which leaves no room for unknown, repeated or
// differently-cased members, white space or trailing bytes. It refuses to say
// where a document differs: such documents are written by programs.
package canonical

import (
	"bytes"
	"encoding/json"
	"errors"
)

// ErrForm says that a document is not as json.Marshal would write it.
var ErrForm = errors.New("not in canonical form")

// Unmarshal decodes raw into v, a pointer, and returns ErrForm where encoding v
// again gives other bytes.
func Unmarshal(raw []byte, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return err
	}
	again, err := json.Marshal(v)
	if err != nil || !bytes.Equal(again, raw) {
		return ErrForm
	}
	return nil
}
