package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/backup"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// defaultBackupTime is how long a backup may take, unless --timeout says more.
const defaultBackupTime = 10 * time.Minute

func (a *app) backupCmd() *cobra.Command {
	var user userFlags
	var check bool
	c := &cobra.Command{Use: "backup FILE", Short: "Fetch the sealed state", Example: "  ashlar backup state-2026-11-22.backup --cert alice.pem --key alice.key\n  ashlar backup state-2026-11-22.backup --check",
		Long: "A consistent snapshot of the state with what seals it and the holders' shares.\nNothing in it is readable: it opens where the state opens, or with the shares.\nNeeds the right backup. ashlar-coordinator restore --from FILE --state DIR puts\nit back.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !check {
				if err := a.fetchBackup(c.Context(), user, args[0]); err != nil {
					return err
				}
			}
			return a.checkBackup(args[0])
		}}
	user.register(c)
	c.Flags().BoolVar(&check, "check", false, "only read the file, and say whether it is whole")
	return c
}

// fetchBackup writes the backup beside FILE, and gives it the name when it is
// whole.
func (a *app) fetchBackup(ctx context.Context, user userFlags, name string) error {
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return problem.New("CLI-009", "%s exists", name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".backup-")
	if err != nil {
		return problem.Because(err, "CLI-003", "writing beside %s", name)
	}
	defer os.Remove(f.Name()) // fails once it has its name
	defer f.Close()
	ctx, cancel := context.WithTimeout(ctx, max(a.timeout, defaultBackupTime))
	defer cancel()
	err = a.withUser(ctx, user, func(cl *client.Client) error { return cl.Backup(ctx, f) })
	if err != nil {
		return err
	}
	if _, err = f.Seek(0, io.SeekStart); err == nil {
		_, err = backup.Verify(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = durable.Rename(f.Name(), name)
	}
	if err != nil && problem.CodeOf(err) == "" {
		err = problem.Because(err, "CLI-003", "writing %s", name)
	}
	return err
}

func (a *app) checkBackup(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return problem.Because(err, "CLI-003", "reading %s", name)
	}
	defer f.Close()
	s, err := backup.Verify(f)
	if err != nil {
		return err
	}
	if done, err := a.p.Structured(s); done {
		return err
	}
	a.p.Printf("%s %s is whole: a state of %s\n", a.p.Green(term.OK), name, s.Time.Format(time.RFC3339))
	for _, file := range s.Files {
		a.p.Printf("  %-13s %d bytes\n", file.Name, file.Size)
	}
	return nil
}
