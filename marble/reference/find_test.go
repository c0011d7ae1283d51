package reference

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// secretVolume lays files out as a kubelet does for a Secret: names are links
// into ..data, which is a link to the version in force.
func secretVolume(t *testing.T, dir, version string, content map[string]string) {
	t.Helper()
	for name, text := range content {
		path := filepath.Join(dir, version, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		top := strings.Split(name, "/")[0]
		if err := os.Symlink("..data/"+top, filepath.Join(dir, top)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	tmp := filepath.Join(dir, "..data_tmp")
	if err := errors.Join(os.Symlink(version, tmp), os.Rename(tmp, filepath.Join(dir, "..data"))); err != nil {
		t.Fatal(err)
	}
}

func listed() manifest.References {
	return manifest.References{Env: map[string][]string{"DB_PASSWORD": {"dbPassword", "other"}}, Files: map[string][]string{"/etc/db/password": {"dbPassword"}}}
}

func TestFind(t *testing.T) {
	folder := t.TempDir()
	volume := filepath.Join(folder, "etc/db")
	secretVolume(t, volume, "..2026_01_01", map[string]string{"password": "sealed:ashlar:v1:dbPassword:hex\n", "ca.crt": "plain", "more/user": "alice"})
	h := Host{Marble: "web", Folder: folder, Environ: []string{"DB_PASSWORD=sealed:ashlar:v1:other", "PATH=/bin", "SET=sealed:ashlar:v1:x", "ASHLAR_X=sealed:ashlar:v9:x", "ODD"}}
	p := manifest.Parameters{References: listed(), Env: map[string]string{"SET": "by the manifest"}}
	f, err := h.Find(p)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%v %v %s", f.Env, f.Files, f.Plain), "map[DB_PASSWORD:sealed:ashlar:v1:other] map[/etc/db/password:sealed:ashlar:v1:dbPassword:hex] map[/etc/db/ca.crt:plain /etc/db/more/user:alice]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// The next version of the Secret.
	secretVolume(t, volume, "..2026_01_02", map[string]string{"password": "sealed:ashlar:v1:dbPassword", "ca.crt": "newer", "more/user": "bob"})
	if f, err = h.Find(p); err != nil || f.Files["/etc/db/password"].Form != Raw || string(f.Plain["/etc/db/ca.crt"]) != "newer" || string(f.Plain["/etc/db/more/user"]) != "bob" {
		t.Errorf("got %v %s, %v", f.Files, f.Plain, err)
	}
	p.Files = map[string]string{"/etc/db/ca.crt": "of the manifest"}
	if f, err = h.Find(p); err != nil || f.Plain["/etc/db/ca.crt"] != nil {
		t.Errorf("got %s, %v, want the manifest's file left alone", f.Plain, err)
	}
	if f, err = (Host{Environ: []string{"A=b"}}).Find(manifest.Parameters{}); err != nil || len(f.Env)+len(f.Files)+len(f.Plain) != 0 {
		t.Errorf("nothing: got %v, %v", f, err)
	}
}

func TestFindRefusals(t *testing.T) {
	const good, password = "DB_PASSWORD=sealed:ashlar:v1:dbPassword", "sealed:ashlar:v1:dbPassword"
	for name, c := range map[string]struct {
		environ    []string
		files      map[string]string
		code       problem.Code
		want, next string
	}{
		"another variable": {[]string{good, "DEBUG=sealed:ashlar:v1:dbPassword"}, map[string]string{"etc/db/password": password}, "MRB-064",
			`variable "DEBUG" refers to dbPassword`, `marbles.web.parameters: "references": {"env":{"DEBUG":["dbPassword"]}}`},
		"a loader's variable": {[]string{good, "LD_PRELOAD=sealed:ashlar:v1:dbPassword"}, map[string]string{"etc/db/password": password}, "MRB-064", "LD_PRELOAD", ""},
		"another secret": {[]string{"DB_PASSWORD=sealed:ashlar:v1:signingKey"}, map[string]string{"etc/db/password": password}, "MRB-064",
			`variable "DB_PASSWORD" refers to signingKey`, `{"env":{"DB_PASSWORD":["dbPassword","other","signingKey"]}}`},
		"another file": {[]string{good}, map[string]string{"etc/db/password": password, "var/log/x": password}, "MRB-064", `file "/var/log/x" refers to dbPassword`, `{"files":{"/var/log/x":["dbPassword"]}}`},
		"several": {[]string{"A=sealed:ashlar:v1:b", "C=sealed:ashlar:v1:d:hex"}, map[string]string{"e": "sealed:ashlar:v1:f"}, "MRB-064",
			`variable "A" refers to b, variable "C" refers to d, file "/e" refers to f`, `{"env":{"A":["b"],"C":["d"]},"files":{"/e":["f"]}}`},
		"no variable":           {nil, map[string]string{"etc/db/password": password}, "MRB-065", "variable DB_PASSWORD holds none", ""},
		"a value of the host's": {[]string{"DB_PASSWORD=chosen"}, map[string]string{"etc/db/password": password}, "MRB-065", "want sealed:ashlar:v1:dbPassword or sealed:ashlar:v1:other", ""},
		"no file":               {[]string{good}, map[string]string{"etc/db/user": "x"}, "MRB-065", "file /etc/db/password", ""},
		"a file of the host's":  {[]string{good}, map[string]string{"etc/db/password": "chosen"}, "MRB-065", "/etc/db/password holds none", ""},
		"malformed":             {[]string{"DB_PASSWORD=sealed:ashlar:v1:"}, nil, "MRB-063", `variable "DB_PASSWORD"`, ""},
		"another version":       {[]string{"DB_PASSWORD=sealed:ashlar:v2:x"}, nil, "MRB-063", "v1 is", ""},
		"within text":           {[]string{"URL=postgres://u:sealed:ashlar:v1:dbPassword@h"}, nil, "MRB-063", "inside of longer text", ""},
		"with a space":          {[]string{"DB_PASSWORD= sealed:ashlar:v1:dbPassword"}, nil, "MRB-063", "inside of longer text", ""},
		"within a file":         {[]string{good}, map[string]string{"etc/db/conf": "password=" + password}, "MRB-063", `file "/etc/db/conf"`, ""},
		"two line breaks":       {[]string{good}, map[string]string{"etc/db/password": password + "\n\n"}, "MRB-063", `file "/etc/db/password"`, ""},
		"two in a file":         {[]string{good}, map[string]string{"etc/db/password": password + "\n" + password}, "MRB-063", `file "/etc/db/password"`, ""},
	} {
		folder := t.TempDir()
		for at, text := range c.files {
			path := filepath.Join(folder, at)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Host{Marble: "web", Folder: folder, Environ: c.environ}.Find(manifest.Parameters{References: listed()})
		if e := problem.From(err); e.Code != c.code || !strings.Contains(e.Detail, c.want) || !strings.Contains(e.Next, c.next) {
			t.Errorf("%s: got %s %s\n  next %s\nwant %s with %q and %q", name, e.Code, e.Detail, e.Next, c.code, c.want, c.next)
		}
		if err != nil && strings.Contains(err.Error(), "chosen") {
			t.Errorf("%s: the error holds the host's value: %v", name, err)
		}
	}
	if _, err := (Host{Environ: []string{good}}).Find(manifest.Parameters{References: listed()}); problem.CodeOf(err) != "MRB-065" || !strings.Contains(err.Error(), "ASHLAR_REFERENCES") {
		t.Errorf("no folder: got %v, want MRB-065 that says how to give one", err)
	}
}

// Whatever the host lays down, reading ends, and stays within the folder.
func TestFolderRefusals(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("of somebody else"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		lay  func(dir string) error
		code problem.Code
	}{
		"link out of it":    {func(dir string) error { return os.Symlink(outside, dir+"/x") }, "MRB-068"},
		"relative link out": {func(dir string) error { return os.Symlink("../outside", dir+"/x") }, "MRB-068"},
		"folder out of it":  {func(dir string) error { return os.Symlink("/etc", dir+"/x") }, "MRB-068"},
		"pipe":              {func(dir string) error { return syscall.Mkfifo(dir+"/x", 0o600) }, "MRB-068"},
		"link to itself":    {func(dir string) error { return os.Symlink("x", dir+"/x") }, "MRB-068"},
		"folder in itself":  {func(dir string) error { return os.Symlink(".", dir+"/x") }, "MRB-068"},
		"twice in itself":   {func(dir string) error { return errors.Join(os.Symlink(".", dir+"/x"), os.Symlink(".", dir+"/y")) }, "MRB-068"},
		"large":             {func(dir string) error { return os.Truncate(create(dir+"/x"), maxFile+1) }, "MRB-069"},
		"many": {func(dir string) error {
			for i := range maxFiles + 1 {
				create(fmt.Sprintf("%s/%d", dir, i))
			}
			return nil
		}, "MRB-069"},
		"large together": {func(dir string) error {
			for i := range maxFolder/maxFile + 1 {
				if err := os.Truncate(create(fmt.Sprintf("%s/%d", dir, i)), maxFile); err != nil {
					return err
				}
			}
			return nil
		}, "MRB-069"},
		"none":            {os.Remove, "MRB-068"},
		"link to nowhere": {func(dir string) error { return os.Symlink("none", dir+"/x") }, ""},
		"a version's folder": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/..data", 0o700), syscall.Mkfifo(dir+"/..data/x", 0o600))
		}, ""},
	} {
		dir := t.TempDir()
		if err := c.lay(dir); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		content, err := readFolder(dir)
		if problem.CodeOf(err) != c.code || err == nil && len(content) > 0 {
			t.Errorf("%s: got %d files, %v, want %q", name, len(content), err, c.code)
		}
	}
}

func create(path string) string {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		panic(err)
	}
	return path
}

// Whatever the host gives, only what is listed is found, and nothing is passed on
// as plain that looks like a reference.
func FuzzFind(f *testing.F) {
	f.Add("sealed:ashlar:v1:dbPassword", "sealed:ashlar:v1:dbPassword:hex\n", "plain")
	f.Add("sealed:ashlar:v1:other", "sealed:ashlar:v1:signingKey", "a sealed:ashlar:v1:x")
	f.Add("chosen", "", "sealed:ashlar:v2:dbPassword\n\n")
	f.Fuzz(func(t *testing.T, value, password, other string) {
		folder := t.TempDir()
		if err := errors.Join(os.MkdirAll(folder+"/etc/db", 0o700), os.WriteFile(folder+"/etc/db/password", []byte(password), 0o600),
			os.WriteFile(folder+"/etc/db/other", []byte(other), 0o600)); err != nil {
			t.Fatal(err)
		}
		found, err := Host{Folder: folder, Environ: []string{"DB_PASSWORD=" + value, "OTHER=" + other}}.Find(manifest.Parameters{References: listed()})
		if err != nil {
			return
		}
		if r := found.Env["DB_PASSWORD"]; len(found.Env) != 1 || r.Secret != "dbPassword" && r.Secret != "other" {
			t.Errorf("variables: %v", found.Env)
		}
		if r := found.Files["/etc/db/password"]; len(found.Files) != 1 || r.Secret != "dbPassword" {
			t.Errorf("files: %v", found.Files)
		}
		for at, content := range found.Plain {
			if strings.Contains(string(content), Prefix) {
				t.Errorf("%s is passed on: %q", at, content)
			}
		}
	})
}
