package cli

import (
	"cmp"
	"errors"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// witnessFlags say whose word on the log is wanted.
type witnessFlags struct {
	keys    []string
	atLeast int
	within  time.Duration
}

func (f *witnessFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.keys, "witness", nil, "key of a witness whose co-signature counts, NAME+ID+BASE64; may be repeated")
	c.Flags().IntVar(&f.atLeast, "witnesses", 0, "how many of them must have co-signed; all, if it is not given")
	c.Flags().DurationVar(&f.within, "witnessed-within", client.DefaultWitnessed, "how old their word may be")
}

// parse reads the keys.
func (f witnessFlags) parse() (client.Witnessing, error) {
	keys, err := transparency.ParseWitnessKeys(f.keys)
	if err != nil {
		return client.Witnessing{}, err
	}
	w := client.Witnessing{Keys: keys, AtLeast: f.atLeast, Within: f.within}
	switch {
	case f.atLeast < 0 || f.atLeast > len(keys):
		return w, usage("--witnesses %d: there are %d --witness", f.atLeast, len(keys))
	case f.within <= 0:
		return w, usage("--witnessed-within %s: want a time", f.within)
	case f.atLeast == 0:
		w.AtLeast = len(keys)
	}
	return w, nil
}

// logTrust says by what a file of the log is judged offline.
type logTrust struct {
	logKey    string
	witnesses witnessFlags
}

func (t *logTrust) register(c *cobra.Command) {
	c.Flags().StringVar(&t.logKey, "log-key", "", "the log's key, NAME+ID+BASE64; without it, that of the trust directory")
	t.witnesses.register(c)
}

// logInput is what a file of the log is judged by.
type logInput struct {
	key        string // "" if nobody has said
	whose      string // key it is, in words
	seen       []transparency.Checkpoint
	witnessing client.Witnessing
}

// logInput takes the key that was given, or that of the trust directory with the
// checkpoint that it remembers.
func (a *app) logInput(t logTrust) (logInput, error) {
	var in logInput
	var err error
	if in.witnessing, err = t.witnesses.parse(); err != nil {
		return in, err
	}
	if t.logKey != "" {
		_, err := transparency.Verifier(t.logKey)
		in.key, in.whose = t.logKey, "the log key that you gave"
		return in, err
	}
	trust, err := client.LoadTrust(a.trust)
	if errors.Is(err, fs.ErrNotExist) {
		in.whose = "nobody has said whose key that is (--log-key)"
		return in, nil
	}
	if err != nil {
		return in, err
	}
	at, err := transparency.Open([]byte(trust.Checkpoint), trust.LogKey)
	if err != nil {
		return in, err
	}
	in.key, in.whose, in.seen = trust.LogKey, "the log key of "+a.trust, []transparency.Checkpoint{at}
	return in, nil
}

// compare holds a checkpoint against those that were seen, as far as sizes agree.
func (in logInput) compare(at transparency.Checkpoint) error {
	for _, s := range in.seen {
		if s.Size == at.Size && s.Root != at.Root {
			return problem.New("LOG-051", "its root over %d entries is another one than the one that was seen before", at.Size)
		}
	}
	return nil
}

// enough demands a key that somebody trusts, and the co-signatures.
func (in logInput) enough(co []transparency.Cosignature, now time.Time) error {
	if in.key == "" {
		return problem.New("CLI-076", "what the file shows hangs together; nobody has said which log it should be of")
	}
	return in.witnessing.Check(co, now)
}

// witnessLines shows co-signatures.
func (a *app) witnessLines(co []transparency.Cosignature) {
	for _, c := range co {
		a.p.Printf("witness       %s %s, %s\n", a.p.Green(term.OK), c.Witness, c.Time.Format(time.RFC3339))
	}
}

// witnessing is what the flags demand of witnesses, or without them the policy
// file.
func (a *app) witnessing(in trustInput, f witnessFlags) (client.Witnessing, error) {
	if len(f.keys) == 0 && f.atLeast == 0 {
		return in.log, nil
	}
	return f.parse()
}

// witnessingOf reads what a policy file demands of the log.
func witnessingOf(l manifest.PolicyLog) (client.Witnessing, error) {
	keys, err := transparency.ParseWitnessKeys(l.Witnesses)
	if err != nil {
		return client.Witnessing{}, err
	}
	return client.Witnessing{Keys: keys, AtLeast: cmp.Or(l.AtLeast, len(keys)), Within: time.Duration(l.Within)}, nil
}
