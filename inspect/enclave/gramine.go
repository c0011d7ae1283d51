package enclave

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxManifest bounds a manifest of Gramine, in bytes.
const MaxManifest = 16 << 20

// Manifest is what a Gramine manifest (manifest.sgx) says of the enclave. The
// manifest itself is measured, but MRENCLAVE stands in the SIGSTRUCT beside it.
type Manifest struct {
	Entrypoint      string // libos.entrypoint, or loader.entrypoint
	ProductID       uint16
	SecurityVersion uint16
	Debug           bool
	TrustedFiles    int // with a hash
}

// IsManifest reports whether text looks like a manifest that gramine-sgx-sign
// wrote: it has a table "sgx" and trusted files.
func IsManifest(text []byte) bool {
	if len(text) > MaxManifest {
		return false
	}
	m, keys, err := readManifest(string(text))
	return err == nil && keys > 0 && (m.Entrypoint != "" || m.TrustedFiles > 0)
}

// ReadManifest reads the keys of Manifest from a manifest of at most MaxManifest
// bytes. Of TOML it knows what such manifests consist of: tables, arrays of
// tables, dotted keys, strings, numbers, booleans, arrays and inline tables.
func ReadManifest(text []byte) (Manifest, error) {
	if len(text) > MaxManifest {
		return Manifest{}, fmt.Errorf("the manifest has %d bytes, limit %d", len(text), MaxManifest)
	}
	m, keys, err := readManifest(string(text))
	if err == nil && keys == 0 {
		err = errors.New("the manifest has no key of SGX")
	}
	return m, err
}

// readManifest also counts the keys under "sgx".
func readManifest(text string) (m Manifest, keys int, err error) {
	table, seen := "", map[string]bool{}
	s := &scanner{rest: text}
	for {
		if s.skip(" \t\r\n"); s.rest == "" {
			return m, keys, nil
		}
		if strings.HasPrefix(s.rest, "[") {
			if table, err = s.table(); err != nil {
				return m, keys, err
			}
			if table == "sgx.trusted_files" {
				m.TrustedFiles++
			}
			continue
		}
		key, value, err := s.pair()
		if err != nil {
			return m, keys, err
		}
		if table != "" {
			key = table + "." + key
		}
		if strings.HasPrefix(key, "sgx.") {
			keys++
		}
		if err := m.set(key, value, seen); err != nil {
			return m, keys, err
		}
	}
}

// set takes the value of a key that matters; none may be there twice.
func (m *Manifest) set(key, value string, seen map[string]bool) error {
	switch key {
	case "sgx.isvprodid", "sgx.isvsvn", "sgx.debug", "libos.entrypoint", "loader.entrypoint", "sgx.trusted_files":
		if seen[key] {
			return fmt.Errorf("the manifest has %s twice", key)
		}
		seen[key] = true
	default:
		return nil
	}
	var err error
	switch key {
	case "sgx.isvprodid":
		m.ProductID, err = number16(value)
	case "sgx.isvsvn":
		m.SecurityVersion, err = number16(value)
	case "sgx.debug":
		m.Debug, err = strconv.ParseBool(value)
	case "sgx.trusted_files":
		m.TrustedFiles = strings.Count(value, "sha256")
	case "libos.entrypoint":
		m.Entrypoint = unquote(value)
	case "loader.entrypoint":
		if m.Entrypoint == "" && value[0] != '{' {
			m.Entrypoint = unquote(value)
		}
	}
	if err != nil {
		return fmt.Errorf("the manifest's %s is %.40q", key, value)
	}
	return nil
}

func number16(value string) (uint16, error) {
	n, err := strconv.ParseUint(strings.ReplaceAll(value, "_", ""), 0, 16)
	return uint16(n), err
}

// unquote returns the text of a string of one line; escapes stay as they are.
func unquote(value string) string { return strings.Trim(value, `"'`) }

// scanner cuts TOML into headers, keys and values.
type scanner struct{ rest string }

// skip passes over white space of the given set, and over comments.
func (s *scanner) skip(space string) {
	for {
		s.rest = strings.TrimLeft(s.rest, space)
		if !strings.HasPrefix(s.rest, "#") {
			return
		}
		n := strings.IndexByte(s.rest, '\n')
		if n < 0 {
			n = len(s.rest)
		}
		if s.rest = s.rest[n:]; !strings.Contains(space, "\n") {
			return
		}
	}
}

// table reads "[a.b]" or "[[a.b]]".
func (s *scanner) table() (string, error) {
	line, rest, _ := strings.Cut(s.rest, "\n")
	head, _, ok := strings.Cut(strings.TrimLeft(line, "["), "]")
	if !ok {
		return "", errors.New("a table's name has no end")
	}
	s.rest = rest
	return cleanKey(head), nil
}

// cleanKey takes quotes and spaces out of a dotted key.
func cleanKey(key string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\"'", r) {
			return -1
		}
		return r
	}, key)
}

// pair reads "key = value".
func (s *scanner) pair() (key, value string, err error) {
	key, rest, ok := strings.Cut(s.rest, "=")
	if !ok || strings.Contains(key, "\n") {
		return "", "", fmt.Errorf("the manifest has a line without a value: %.40q", s.rest)
	}
	s.rest = rest
	s.skip(" \t")
	value, err = s.value()
	if err == nil && value == "" {
		err = fmt.Errorf("the manifest's %.40s has no value", cleanKey(key))
	}
	return cleanKey(key), value, err
}

// value reads one value, an array or inline table as a whole.
func (s *scanner) value() (string, error) {
	depth, i := 0, 0
	for i < len(s.rest) {
		switch c := s.rest[i]; {
		case c == '"' || c == '\'':
			n, err := stringEnd(s.rest[i:])
			if err != nil {
				return "", err
			}
			i += n
			continue
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == '#':
			if n := strings.IndexByte(s.rest[i:], '\n'); n >= 0 {
				if depth > 0 {
					i += n
					continue
				}
			}
			if depth > 0 {
				return "", errors.New("an array has no end")
			}
		}
		if depth < 0 {
			return "", errors.New("a bracket too many")
		}
		if depth == 0 && (s.rest[i] == '\n' || s.rest[i] == '#') {
			break
		}
		i++
	}
	if depth != 0 {
		return "", errors.New("an array has no end")
	}
	value := strings.TrimSpace(s.rest[:i])
	s.rest = s.rest[i:]
	return value, nil
}

// stringEnd returns the length of the string that b begins with.
func stringEnd(b string) (int, error) {
	quote := b[:1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(b, triple) {
		if n := strings.Index(b[3:], triple); n >= 0 {
			return n + 6, nil
		}
		return 0, errors.New("a string has no end")
	}
	for i := 1; i < len(b); i++ {
		switch {
		case b[i] == '\\' && quote == `"`:
			i++
		case b[i] == quote[0]:
			return i + 1, nil
		case b[i] == '\n':
			return 0, errors.New("a string has no end")
		}
	}
	return 0, errors.New("a string has no end")
}
