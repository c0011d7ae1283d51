package etcd

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestClusterFiles has documents in etcd behave as those in a folder.
func TestClusterFiles(t *testing.T) {
	c := dial(t, etcdtest.Start(t, 1))
	for name, files := range map[string]recovery.Files{"folder": recovery.Folder(t.TempDir()), "etcd": c.Files()} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			read := func(name, want string) {
				t.Helper()
				got, err := files.Read(ctx, name)
				if want == "" && !errors.Is(err, fs.ErrNotExist) || want != "" && (err != nil || string(got) != want) {
					t.Fatalf("%s: got %q, %v, want %q", name, got, err, want)
				}
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			read("a", "")
			must(files.Remove(ctx, "a"))
			must(files.Write(ctx, "a", []byte("1")))
			must(files.Write(ctx, "a", []byte("2")))
			read("a", "2")
			must(files.Rename(ctx, "a", "b"))
			read("a", "")
			read("b", "2")
			must(files.Write(ctx, "a", []byte("3")))
			must(files.Rename(ctx, "a", "b"))
			read("b", "3")
			if err := files.Rename(ctx, "a", "b"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("renaming what is absent: got %v, want fs.ErrNotExist", err)
			}
			must(files.Remove(ctx, "b"))
			read("b", "")
			must(files.Write(ctx, "a", make([]byte, recovery.MaxFile)))
			if got, err := files.Read(ctx, "a"); err != nil || len(got) != recovery.MaxFile {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
	if err := c.Files().Write(t.Context(), "a", make([]byte, maxFile+1)); problem.CodeOf(err) != "STO-009" {
		t.Errorf("one byte more: got %v, want STO-009", err)
	}
	if _, err := c.client.Put(t.Context(), c.Key("files/large"), string(bytes.Repeat([]byte("x"), 2*maxFile))); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Files().Read(t.Context(), "large"); err != nil || len(got) != recovery.MaxFile+1 {
		t.Errorf("a large one by the host: got %d bytes, %v", len(got), err)
	}
}

// TestClusterFilesOfAnother lets a coordinator that was replaced go on with its
// change: what the new one wrote stays.
func TestClusterFilesOfAnother(t *testing.T) {
	c := dial(t, etcdtest.Start(t, 1))
	ctx := t.Context()
	for name, late := range map[string]func(*Files) error{
		"write":  func(f *Files) error { return f.Write(ctx, "next", []byte("old's")) },
		"remove": func(f *Files) error { return f.Remove(ctx, "next") },
		"rename": func(f *Files) error { return f.Rename(ctx, "next", "now") },
	} {
		before, after := c.Files(), c.Files()
		if err := before.Write(ctx, "next", []byte("old's")); err != nil {
			t.Fatal(err)
		}
		if _, err := after.Read(ctx, "next"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(after.Remove(ctx, "next"), after.Write(ctx, "next", []byte("new's"))); err != nil {
			t.Fatal(err)
		}
		if err := late(before); !errors.Is(err, errFileMoved) {
			t.Errorf("%s: got %v, want that another coordinator changed it", name, err)
		}
		if got, err := after.Read(ctx, "next"); err != nil || string(got) != "new's" {
			t.Errorf("%s: got %q, %v, want new's", name, got, err)
		}
		if name == "rename" {
			continue
		}
		if err := before.Write(ctx, "next", []byte("again")); err != nil {
			t.Errorf("%s, and once more having seen it: %v", name, err)
		}
		if err := after.Write(ctx, "next", nil); !errors.Is(err, errFileMoved) {
			t.Errorf("%s: the other way round: got %v", name, err)
		}
		if err := c.Files().Remove(ctx, "next"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestClusterFilesAfterATakeover has two coordinators, one after the other, keep the recovery
// document in etcd: the second finishes what the first began, and what the first
// does later changes nothing.
func TestClusterFilesAfterATakeover(t *testing.T) {
	c := dial(t, etcdtest.Start(t, 1, "--unsafe-no-fsync"))
	ctx := t.Context()
	before, after := c.Files(), c.Files()
	for _, name := range []string{recovery.File, recovery.File + ".new"} {
		for _, f := range []*Files{before, after} {
			if _, err := f.Read(ctx, name); !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	if err := before.Write(ctx, recovery.File+".new", []byte("first")); err != nil {
		t.Fatal(err)
	}
	// The first one made its commit and stops; the second finishes.
	if _, err := after.Read(ctx, recovery.File+".new"); err != nil {
		t.Fatal(err)
	}
	if err := after.Rename(ctx, recovery.File+".new", recovery.File); err != nil {
		t.Fatal(err)
	}
	if err := before.Rename(ctx, recovery.File+".new", recovery.File); err == nil {
		t.Error("the first one finished it too")
	}
	if err := after.Write(ctx, recovery.File+".new", []byte("second")); err != nil {
		t.Fatal(err)
	}
	if err := before.Remove(ctx, recovery.File); !errors.Is(err, errFileMoved) {
		t.Errorf("the first one removes the document: got %v", err)
	}
	found, err := recovery.Documents(ctx, after)
	if err != nil || string(found[recovery.File]) != "first" || string(found[recovery.File+".new"]) != "second" {
		t.Errorf("got %q, %v", found, err)
	}
}
