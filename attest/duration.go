package attest

import (
	"fmt"
	"time"
)

// Duration is a time.Duration that reads and writes as "1h30m".
type Duration time.Duration

// String returns Go's form, such as "1h0m0s".
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(t []byte) error {
	v, err := time.ParseDuration(string(t))
	if err != nil {
		return fmt.Errorf("not a duration such as 90s, 10m or 1h30m: %q", t)
	}
	*d = Duration(v)
	return nil
}
