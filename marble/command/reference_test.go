package command

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

// referring is a marble whose manifest lists a variable and a file for the
// secret dbPassword; the file's place is returned.
func (x *bench) referring(value string) (b marbletest.Behaviour, file string) {
	file = filepath.Join(x.dir, "db", "password")
	b = marbletest.Behaviour{Secrets: map[string]*marblepb.Secret{"dbPassword": {Value: []byte(value), Version: 1}}, Parameters: x.parameters(map[string]string{"SECRET_FILE": file})}
	dbPassword := &marblepb.Names{Names: []string{"dbPassword"}}
	b.Parameters.ReferenceEnv = map[string]*marblepb.Names{"DB_PASSWORD": dbPassword}
	b.Parameters.ReferenceFiles = map[string]*marblepb.Names{file: dbPassword}
	return b, file
}

// refer puts text where the host puts a file, and returns the folder.
func (x *bench) refer(file, text string) string {
	x.t.Helper()
	folder := filepath.Join(x.t.TempDir(), "references")
	path := filepath.Join(folder, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		x.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		x.t.Fatal(err)
	}
	return folder
}

// rotate pushes the secret's next value.
func (x *bench) rotate(p *process, b marbletest.Behaviour, value string) {
	x.t.Helper()
	now := time.Now()
	lease := &marblepb.Lease{Bundle: [][]byte{x.coordinator.CA.Root.Raw}, SpiffeId: "spiffe://" + marbletest.TrustDomain + "/web", Revision: "of another manifest",
		RenewAfterUnixMs: now.Add(time.Minute).UnixMilli(), NotAfterUnixMs: now.Add(2 * time.Minute).UnixMilli(),
		Secrets: map[string]*marblepb.Secret{"dbPassword": {Value: []byte(value), Version: 2}}, Parameters: b.Parameters}
	x.await("a session", p, func() bool {
		return x.coordinator.Push(&marblepb.SessionResponse{Message: &marblepb.SessionResponse_Lease{Lease: lease}}) > 0
	})
}

func TestReferencesAreResolved(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	b, file := x.referring("first-password")
	x.coordinator.Behave(b)
	folder := x.refer(file, "sealed:ashlar:v1:dbPassword:base64\n")
	x.environ = []string{"DB_PASSWORD=sealed:ashlar:v1:dbPassword", "OTHER=kept"}
	p := x.start([]string{"--references", folder, "--reload-signal", "USR1"}, os.Args[0])
	x.await("the program has the secret", p, func() bool { s, ok := x.seen(); return ok && s.Secret == "Zmlyc3QtcGFzc3dvcmQ=" })
	s, _ := x.seen()
	if !slices.Contains(s.Env, "DB_PASSWORD=first-password") || !slices.Contains(s.Env, "OTHER=kept") {
		t.Errorf("got environment %q", s.Env)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", st, err)
	}
	x.await("it runs", p, func() bool { status, _ := x.stage(); return status == 200 })

	// The secret rotates, and the host asks for another form.
	if err := os.WriteFile(filepath.Join(folder, file), []byte("sealed:ashlar:v1:dbPassword"), 0o600); err != nil {
		t.Fatal(err)
	}
	x.rotate(p, b, "second-password")
	x.await("the file is replaced", p, func() bool { s, ok := x.seen(); return ok && s.Secret == "second-password" })
	x.await("it says what to restart", p, func() bool {
		return strings.Contains(p.stderr.String(), "MRB-033") && strings.Contains(p.stderr.String(), "DB_PASSWORD")
	})

	// The host takes a reference away: what is there stays, and it is said. What the
	// manifest gives by itself goes on.
	if err := os.WriteFile(filepath.Join(folder, file), []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(x.dir, "db", "own")
	b.Parameters.Files = map[string]string{own: "{{ raw .Secrets.dbPassword }}"}
	x.rotate(p, b, "third-password")
	x.await("the manifest's own file", p, func() bool { got, _ := os.ReadFile(own); return string(got) == "third-password" })
	x.await("it says what is wrong", p, func() bool { return strings.Contains(p.stderr.String(), "MRB-065") })
	if got, err := os.ReadFile(file); err != nil || string(got) != "second-password" {
		t.Errorf("got %q, %v, want the secret left in place", got, err)
	}
	p.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the exit code says it
	p.code(t)
	if _, err := os.Stat(file); err == nil {
		t.Error("the file stays")
	}
	for _, secret := range []string{"first-password", "Zmlyc3QtcGFzc3dvcmQ=", "second-password", "third-password"} {
		if strings.Contains(p.stderr.String(), secret) {
			t.Errorf("%s was logged", secret)
		}
	}
}

func TestReferencesAreRefusedBeforeTheProgramStarts(t *testing.T) {
	for name, c := range map[string]struct {
		environ []string
		file    string
		exit    int
		want    []string
	}{
		"variable that is not listed": {[]string{"DB_PASSWORD=sealed:ashlar:v1:dbPassword", "DEBUG=sealed:ashlar:v1:dbPassword"}, "sealed:ashlar:v1:dbPassword", 3,
			[]string{"MRB-064", `variable "DEBUG" refers to dbPassword`, `marbles.web.parameters: "references": {"env":{"DEBUG":["dbPassword"]}}`}},
		"secret that is not listed": {[]string{"DB_PASSWORD=sealed:ashlar:v1:other"}, "sealed:ashlar:v1:dbPassword", 3, []string{"MRB-064", "other"}},
		"value of the host's":       {[]string{"DB_PASSWORD=guessed"}, "sealed:ashlar:v1:dbPassword", 3, []string{"MRB-065", "DB_PASSWORD"}},
		"file of the host's":        {[]string{"DB_PASSWORD=sealed:ashlar:v1:dbPassword"}, "guessed", 3, []string{"MRB-065"}},
		"form that does not fit":    {[]string{"DB_PASSWORD=sealed:ashlar:v1:dbPassword:pem"}, "sealed:ashlar:v1:dbPassword", 6, []string{"MRB-066", "DB_PASSWORD", "use raw, base64 or hex"}},
		"bytes in a variable":       {[]string{"DB_PASSWORD=sealed:ashlar:v1:dbPassword"}, "sealed:ashlar:v1:dbPassword", 6, []string{"MRB-066", "use base64 or hex"}},
		"version":                   {[]string{"DB_PASSWORD=sealed:ashlar:v2:dbPassword"}, "sealed:ashlar:v1:dbPassword", 6, []string{"MRB-063", "v1 is"}},
	} {
		t.Run(name, func(t *testing.T) {
			x := newBench(t, marbletest.Behaviour{})
			value := "top-secret"
			if name == "bytes in a variable" {
				value = "top-secret\x00"
			}
			b, file := x.referring(value)
			x.coordinator.Behave(b)
			x.environ = c.environ
			p := x.start([]string{"--references", x.refer(file, c.file)}, os.Args[0])
			if code := p.code(t); code != c.exit {
				t.Errorf("got exit code %d, want %d", code, c.exit)
			}
			for _, want := range c.want {
				if !strings.Contains(p.stderr.String(), want) {
					t.Errorf("lacks %q:\n%s", want, p.stderr.String())
				}
			}
			if _, ran := x.seen(); ran {
				t.Error("the program ran")
			}
			if left := x.leftovers(); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if strings.Contains(p.stderr.String(), "guessed") || strings.Contains(p.stderr.String(), "top-secret") {
				t.Errorf("a value was written:\n%s", p.stderr.String())
			}
		})
	}
}

// Files beside the references go into a volume of their own, and nowhere else.
func TestPlainFilesOfTheHostHaveNoOtherPlace(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	x.coordinator.Behave(marbletest.Behaviour{Parameters: x.parameters(nil)})
	p := x.start([]string{"--references", x.refer("/usr/lib/evil.so", "of the host")}, os.Args[0])
	if code := p.code(t); code != 3 || !strings.Contains(p.stderr.String(), "MRB-067") {
		t.Errorf("got exit code %d:\n%s", code, p.stderr.String())
	}
	if _, err := os.Lstat("/usr/lib/evil.so"); err == nil {
		t.Error("it was written")
	}
	if _, ran := x.seen(); ran {
		t.Error("the program ran")
	}
}

// mountVolume goes on as ashlar-marble with a volume in memory at a path.
func mountVolume(path string) {
	err := errors.Join(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""), syscall.Mount("tmpfs", path, "tmpfs", 0, "size=1m"),
		os.Unsetenv("VOLUME"))
	if err == nil {
		err = syscall.Exec(os.Args[0], os.Args, os.Environ())
	}
	os.Stderr.WriteString("mounting: " + err.Error()) //nolint:errcheck // the exit code says it too
	os.Exit(99)
}

// A pod's Secret with a reference and a plain file: the injector has moved it, and
// put a volume in memory into its place.
func TestPlainFilesGoIntoAVolumeOfTheirOwn(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	b, file := x.referring("top-secret")
	plain := filepath.Join(filepath.Dir(file), "ca.crt")
	b.Parameters.Env["SECRET_FILE"] = plain
	x.coordinator.Behave(b)
	folder := x.refer(file, "sealed:ashlar:v1:dbPassword")
	if err := errors.Join(os.WriteFile(filepath.Join(folder, plain), []byte("of the host"), 0o600), os.Mkdir(filepath.Dir(file), 0o700)); err != nil {
		t.Fatal(err)
	}
	x.environ = []string{"DB_PASSWORD=sealed:ashlar:v1:dbPassword", "VOLUME=" + filepath.Dir(file)}
	x.namespaces = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		x.namespaces.Cloneflags |= syscall.CLONE_NEWUSER
		x.namespaces.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		x.namespaces.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	p := x.start([]string{"--references", folder, "--reload-signal", "USR1"}, os.Args[0])
	x.await("the program has the plain file", p, func() bool { s, ok := x.seen(); return ok && s.Secret == "of the host" })
	if _, err := os.Stat(file); err == nil {
		t.Error("the secret lies outside of the volume")
	}
	if err := os.WriteFile(filepath.Join(folder, plain), []byte("newer"), 0o600); err != nil {
		t.Fatal(err)
	}
	x.rotate(p, b, "next-secret")
	x.await("it is replaced", p, func() bool { s, _ := x.seen(); return s.Secret == "newer" })
	p.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the exit code says it
	if code := p.code(t); code != 42 {
		t.Errorf("got exit code %d\n%s", code, p.stderr.String())
	}
}
