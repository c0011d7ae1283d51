package daemon

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/backup"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// restore puts a backup's state into a folder that does not exist or is empty.
func restore(args []string, getenv func(string) string, stdout io.Writer) error {
	flags := flag.NewFlagSet("ashlar-coordinator restore", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	from := flags.String("from", "", "file that ashlar backup wrote; with --store also the folder of a state that no coordinator runs on")
	state := flags.String("state", getenv("ASHLAR_STATE"), "folder of the state, which does not exist yet")
	location := flags.String("store", getenv("ASHLAR_STORE"), "etcd, where there is no state yet; without it all goes into the folder")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return nil
	case err != nil:
		return badFlags(flags, err)
	case *from == "" || *state == "" || flags.NArg() > 0:
		return problem.New("CRD-130", "wanted restore --from FILE --state DIR").WithNext("ashlar-coordinator help")
	case *location != "":
		ctx, _, stop := signals()
		defer stop()
		return RestoreShared(ctx, *from, *location, *state, stdout)
	}
	return Restore(*from, *state, stdout)
}

// Restore puts the backup in a file into a folder. The next start there begins a
// new epoch. The errors are STO-022, STO-023 and STO-007.
func Restore(from, state string, stdout io.Writer) error {
	f, err := os.Open(from)
	if err != nil {
		return problem.Because(err, "STO-007", "reading the backup")
	}
	defer f.Close()
	s, err := backup.Restore(f, state, newMark())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "Put the state of %s into %s. Whatever happened since is not in it.\nnext: ashlar-coordinator run: a new epoch begins, which everybody sees who verifies it\n",
		s.Time.Format(time.RFC3339), state)
	return err
}

// newMark names a restore.
func newMark() string {
	var mark [16]byte
	rand.Read(mark[:]) // never fails (crypto/rand)
	return hex.EncodeToString(mark[:])
}
