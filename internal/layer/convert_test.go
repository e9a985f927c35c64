package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/disk"
)

func toTar(t *testing.T, a applied) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := ToTar(t.Context(), a.fs, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestThereAndBack: the tar file of an image makes an image with the same tar file, and from
// then on not even a byte of the image changes.
func TestThereAndBack(t *testing.T) {
	fromTar := func(p []byte) applied {
		return imageOf(t, func(w *disk.Writer) (Stats, error) { return FromTar(t.Context(), w, stored(p), Options{}) })
	}
	a := apply(t,
		pack(t, file("a", "1"), hardlink("b", "a"), symlink("s", "t"), dir("d"), file("z/y/x", noise(9000))),
		pack(t, file("a", "2"), whiteout("d/.wh.x"), whiteout(".wh.s"), file("m", noise(70000))))
	first := toTar(t, a)
	b := fromTar(first)
	if b.tree(t) != a.tree(t) {
		t.Errorf("another tree: %s", b.tree(t))
	}
	if second := toTar(t, b); !bytes.Equal(first, second) {
		t.Error("the tar file of the copy is another one")
	}
	if c := fromTar(toTar(t, b)); !bytes.Equal(b.bytes(t), c.bytes(t)) {
		t.Error("the copy of the copy is another image")
	}
	if d := apply(t, first); !bytes.Equal(b.bytes(t), d.bytes(t)) {
		t.Error("applied as a layer it is another image")
	}
	e := imageOf(t, func(w *disk.Writer) (Stats, error) { return FromExt4(t.Context(), w, b.fs, Options{}) })
	if !bytes.Equal(b.bytes(t), e.bytes(t)) {
		t.Error("copied as ext4 it is another image")
	}
}

// A hard link says again what its file is: Docker gives the file what the last of its names says.
func TestToTarRepeatsWhatALinkedFileIs(t *testing.T) {
	own := func(h *tar.Header) {
		h.Mode, h.Uid, h.Gid = 0o4751, 7, 8
		h.PAXRecords = map[string]string{"SCHILY.xattr.user.k": "v"}
	}
	a := apply(t, pack(t, file("a", "1").with(own), hardlink("b", "a")))
	tr := tar.NewReader(bytes.NewReader(toTar(t, a)))
	for seen := 0; ; seen++ {
		h, err := tr.Next()
		if err != nil {
			if seen != 2 {
				t.Errorf("%d entries, then %v", seen, err)
			}
			return
		}
		if h.Name == "./" {
			seen--
			continue
		}
		if h.Mode != 0o4751 || h.Uid != 7 || h.Gid != 8 || !h.ModTime.Equal(testTime) || h.PAXRecords["SCHILY.xattr.user.k"] != "v" {
			t.Errorf("%+v", h)
		}
	}
}

func TestToTarLeavesOutSockets(t *testing.T) {
	a := imageOf(t, func(w *disk.Writer) (Stats, error) {
		return Stats{}, errors.Join(
			w.Add(disk.Entry{Path: "a/socket", Type: disk.TypeSocket}, nil),
			w.Add(disk.Entry{Path: "lost+found", Type: disk.TypeDir}, nil))
	})
	var b bytes.Buffer
	s, err := ToTar(t.Context(), a.fs, &b)
	if err != nil || len(s.Skipped) != 1 || !strings.Contains(s.Skipped[0], "a/socket") {
		t.Errorf("%+v %v", s, err)
	}
	e := imageOf(t, func(w *disk.Writer) (Stats, error) { return FromExt4(t.Context(), w, a.fs, Options{}) })
	if got := e.tree(t); got != lines("a directory", "a/socket socket 0000")[:0]+"a directory\na/socket socket\n" {
		t.Errorf("got %s", got)
	}
}

func TestConversionsEndWithTheirContext(t *testing.T) {
	a := apply(t, pack(t, file("a", noise(1<<20))))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ToTar(ctx, a.fs, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	into := func(fill func(w *disk.Writer) error) {
		t.Helper()
		w, err := disk.NewWriter(&memory{}, disk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := fill(w); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	into(func(w *disk.Writer) error { _, err := FromExt4(ctx, w, a.fs, Options{}); return err })
	into(func(w *disk.Writer) error { _, err := FromDir(ctx, w, t.TempDir(), Options{}); return err })
}

func TestDamagedExt4(t *testing.T) {
	a := apply(t, pack(t, file("a", noise(100000)), dir("d"), file("d/b", noise(5000))))
	p := a.bytes(t)
	found := false
	for at := 1024; at < len(p); at += 1000 { // checksums of metadata find most of it
		q := bytes.Clone(p)
		q[at] ^= 0xFF
		fs, err := disk.Open(bytes.NewReader(q), int64(len(q)))
		if err != nil {
			continue
		}
		w, err := disk.NewWriter(&memory{}, disk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := FromExt4(t.Context(), w, fs, Options{}); err != nil {
			wantCode(t, err, "archive.invalid")
			found = true
		}
	}
	if !found {
		t.Error("no damage was found")
	}
}

func inDir(t *testing.T, dir string, o Options) (Stats, error) {
	t.Helper()
	w, err := disk.NewWriter(&memory{}, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return FromDir(t.Context(), w, dir, o)
}

func TestFromDir(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(data), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("a/b", "content")
	write(".wh.x", "literal")
	if err := errors.Join(os.Symlink("/etc", filepath.Join(dir, "etc")), os.Symlink("..", filepath.Join(dir, "up")), os.Link(filepath.Join(dir, "a/b"), filepath.Join(dir, "z"))); err != nil {
		t.Fatal(err)
	}
	short, err := os.MkdirTemp("", "mvm") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	l, err := net.Listen("unix", filepath.Join(short, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := os.Rename(filepath.Join(short, "s"), filepath.Join(dir, "sock")); err != nil {
		t.Fatal(err)
	}
	a := imageOf(t, func(w *disk.Writer) (Stats, error) { return FromDir(t.Context(), w, dir, Options{}) })
	for _, want := range []string{`.wh.x file`, "a/b file", `"content"`, "etc symlink → /etc", "up symlink → ..", "z hard link → a/b"} {
		if !strings.Contains(a.tree(t), want) {
			t.Errorf("no %q in\n%s", want, a.tree(t))
		}
	}
	if len(a.stats.Skipped) != 1 || !strings.HasPrefix(a.stats.Skipped[0], "sock:") {
		t.Errorf("skipped %v", a.stats.Skipped)
	}

	_, err = inDir(t, dir, Options{Limits: Limits{Entries: 3}})
	wantCode(t, err, "archive.limit")
	_, err = inDir(t, dir, Options{Limits: Limits{File: 3}})
	wantCode(t, err, "archive.limit")
	_, err = inDir(t, filepath.Join(dir, "missing"), Options{})
	wantCode(t, err, "input.file")
	_, err = inDir(t, filepath.Join(dir, "z"), Options{})
	wantCode(t, err, "input.file")
}

// watched is an image that tells of its first write.
type watched struct {
	memory
	first func()
}

func (w *watched) WriteAt(p []byte, off int64) (int, error) {
	if w.first != nil {
		first := w.first
		w.first = nil
		first()
	}
	return w.memory.WriteAt(p, off)
}

func TestFromDirNoticesChanges(t *testing.T) {
	for name, change := range map[string]func(file string) error{
		"grows": func(file string) error {
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x")
			return errors.Join(err, f.Close())
		},
		"shrinks":  func(file string) error { return os.Truncate(file, 3<<20) },
		"is wiped": func(file string) error { return os.Truncate(file, 0) },
		"same size": func(file string) error {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("changed"), 100)
			return errors.Join(err, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "f")
			if err := errors.Join(os.WriteFile(file, []byte(noise(8<<20)), 0o600), os.Chtimes(file, testTime, testTime)); err != nil {
				t.Fatal(err)
			}
			w, err := disk.NewWriter(&watched{first: func() {
				if err := change(file); err != nil {
					t.Error(err)
				}
			}}, disk.Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = FromDir(t.Context(), w, dir, Options{})
			wantCode(t, err, "input.changed")
		})
	}
}
