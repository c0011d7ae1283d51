package command

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const installUsage = `Copies ashlar-marble and Envoy into a folder: the init container of a pod, whose
program then runs under the copy.

  ashlar-marble install /ashlar/bin

usage: ashlar-marble install [--envoy PATH|none] FOLDER

FOLDER gets ashlar-marble and envoy, mode 0755, each whole or not at all; what is
there already and is the same stays. Envoy ($ASHLAR_ENVOY) is looked for beside
ashlar-marble and in PATH if no path is given. A folder envoy-lib beside Envoy,
with the libraries that the program's image may lack, is copied too.
`

// installed is the mode of what is installed: any user of the pod may run it.
const installed = 0o755

// libraries is a folder beside Envoy with what it is linked to: images without a
// libc, or with another one, could not start it.
const libraries = "envoy-lib"

// install copies this binary and Envoy into the folder that args name.
func install(args []string, getenv func(string) string, stdout io.Writer) error {
	f := flag.NewFlagSet("install", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	envoy := f.String("envoy", getenv("ASHLAR_ENVOY"), "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, _ = io.WriteString(stdout, installUsage) // help on a closed pipe
			return nil
		}
		return suggest(f, err)
	}
	if f.NArg() != 1 || f.Arg(0) == "" {
		return problem.New("MRB-001", "install takes one folder, got %d: ashlar-marble install /ashlar/bin", f.NArg())
	}
	self, err := os.Executable()
	if err != nil {
		return problem.Because(err, "MRB-060", "finding ashlar-marble itself")
	}
	from := map[string]string{"ashlar-marble": self}
	if *envoy != noEnvoy {
		if from["envoy"], err = findEnvoy(*envoy, filepath.Dir(self)); err != nil {
			return err
		}
	}
	if err := addLibraries(from); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		to := filepath.Join(f.Arg(0), name)
		if err := os.MkdirAll(filepath.Dir(to), installed); err != nil {
			return problem.Because(err, "MRB-060", "making the folder")
		}
		did, err := copyProgram(from[name], to)
		if err != nil {
			return problem.Because(err, "MRB-060", "copying %s to %s", from[name], to)
		}
		fmt.Fprintf(stdout, "%s %s\n", did, to) //nolint:errcheck // on a closed pipe
	}
	return nil
}

// addLibraries adds the files of the folder envoy-lib beside Envoy, by the names
// that they get.
func addLibraries(from map[string]string) error {
	if from["envoy"] == "" {
		return nil
	}
	folder := filepath.Join(filepath.Dir(from["envoy"]), libraries)
	files, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return problem.Because(err, "MRB-060", "reading %s", folder)
	}
	for _, file := range files {
		from[filepath.Join(libraries, file.Name())] = filepath.Join(folder, file.Name())
	}
	return nil
}

// findEnvoy returns the path of Envoy: as given, else beside, else in PATH.
func findEnvoy(given, beside string) (string, error) {
	name := given
	if name == "" {
		name = filepath.Join(beside, "envoy")
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			name = "envoy"
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", problem.Because(err, "MRB-061", "looking for %q", name)
	}
	return path, nil
}

// copyProgram makes to an executable copy of the file from, and says what it did.
func copyProgram(from, to string) (did string, err error) {
	source, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer source.Close() //nolint:errcheck // read only
	st, err := source.Stat()
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", from)
	}
	if isCopy(source, st.Size(), to) {
		return "is there already:", nil
	}
	temporary, err := os.CreateTemp(filepath.Dir(to), ".ashlar-install-")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(temporary, source)
	if err == nil {
		err = temporary.Chmod(installed) // whatever the umask is
	}
	if closeErr := temporary.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temporary.Name(), to)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
		return "", err
	}
	return "installed", nil
}

// isCopy reports whether the file at path is a copy of source that needs nothing.
// It leaves source at its start.
func isCopy(source *os.File, size int64, path string) bool {
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() || st.Mode().Perm() != installed || st.Size() != size {
		return false
	}
	there, err := os.Open(path)
	if err != nil {
		return false
	}
	defer there.Close() //nolint:errcheck // read only
	var sums [2][]byte
	for i, f := range []*os.File{source, there} {
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return false
		}
		sums[i] = h.Sum(nil)
	}
	_, err = source.Seek(0, io.SeekStart)
	return err == nil && bytes.Equal(sums[0], sums[1])
}
