package image

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

func nobody() (func(string) []string, error) { return func(string) []string { return nil }, nil }

// usedBy says that machines use one image.
func usedBy(id string, machines ...string) Users {
	return func() (func(string) []string, error) {
		return func(asked string) []string {
			if asked == id {
				return machines
			}
			return nil
		}, nil
	}
}

func unnamed(Image) bool { return false }
func all(Image) bool     { return true }

func list(t *testing.T, s *Store) []Image {
	t.Helper()
	images, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	return images
}

// draft is a small image whose only file has this content.
func draft(content string, names ...Name) (Draft, func(*disk.Writer) (Notes, error)) {
	d := Draft{Names: names, Arch: "amd64", Config: Config{Command: []string{"serve"}}, Source: Source{Builder: BuilderRootfs}}
	return d, func(w *disk.Writer) (Notes, error) {
		return nil, w.Add(disk.Entry{Path: "file", Type: disk.TypeFile, Mode: 0o644, Size: int64(len(content))}, strings.NewReader(content))
	}
}

func mustImport(t *testing.T, s *Store, content string, names ...Name) Image {
	t.Helper()
	d, fill := draft(content, names...)
	img, err := s.Import(t.Context(), d, fill)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestImport(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	a := mustImport(t, s, "one", "web:latest", "web:1")
	if got := a.Name(); got != "web" || len(a.Names) != 2 {
		t.Errorf("names %v", a.Names)
	}
	for _, text := range []string{"web", "web:1", "web:latest", "docker.io/library/web", a.ID, a.ID[:8], "sha256:" + a.ID} {
		if img, err := s.Find(text); err != nil || img.ID != a.ID {
			t.Errorf("Find(%q): %v, %v", text, img.ID, err)
		}
	}
	if err := s.Verify(t.Context(), a.ID); err != nil {
		t.Error(err)
	}

	// The same source gives the same image on another host, and here it is kept.
	b := mustImport(t, New(t.TempDir()), "one")
	if a.ID != b.ID || a.Content.Rootfs != b.Content.Rootfs {
		t.Errorf("%s and %s from one source", a.ID, b.ID)
	}
	again := mustImport(t, s, "one", "other:latest")
	if again.ID != a.ID || len(again.Names) != 3 || !again.Build.Created.Equal(a.Build.Created) {
		t.Errorf("imported again: %+v", again)
	}

	// A name can move; the image it pointed at stays.
	c := mustImport(t, s, "two", "web:latest")
	if img, _ := s.Find("web"); img.ID != c.ID {
		t.Errorf("web is %s", img.ID)
	}
	if img, _ := s.Find("web:1"); img.ID != a.ID {
		t.Errorf("web:1 is %s", img.ID)
	}
	if rest, err := os.ReadDir(filepath.Join(s.dir, tmpDir)); err != nil || len(rest) != 0 {
		t.Errorf("left in tmp: %v, %v", rest, err)
	}
}

func TestImportFails(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	d, _ := draft("x", "web:latest")
	_, err := s.Import(t.Context(), d, func(*disk.Writer) (Notes, error) { return nil, machine.Errorf("archive.invalid", "", "bad") })
	if machine.CodeOf(err) != "archive.invalid" {
		t.Errorf("%v", err)
	}
	if refs, _, err := s.refs(); err != nil || len(refs) != 0 || len(list(t, s)) != 0 {
		t.Error("something of it is visible")
	}
	ctx, cancel := context.WithCancel(t.Context())
	d, fill := draft("x", "web:latest")
	_, err = s.Import(ctx, d, func(w *disk.Writer) (Notes, error) { cancel(); return fill(w) })
	if err == nil || len(list(t, s)) != 0 {
		t.Errorf("a cancelled import: %v, %v", err, list(t, s))
	}
}

// What a killed import left is removed by the next one, and only that.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	dead := filepath.Join(s.dir, tmpDir, "import-1")
	if err := os.MkdirAll(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead, rootfsFile), make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := s.Prune(t.Context(), nobody, unnamed, true)
	if err != nil || got.Leftovers != 1 || got.Bytes < 8192 {
		t.Errorf("%+v, %v", got, err)
	}
	d, fill := draft("x", "web:latest")
	_, err = s.Import(t.Context(), d, func(w *disk.Writer) (Notes, error) {
		if _, err := os.Stat(dead); err == nil {
			t.Error("what a killed import left is still there")
		}
		if got, err := s.Prune(t.Context(), nobody, all, false); err != nil || got.Leftovers != 0 {
			t.Errorf("an import under way is a leftover: %+v, %v", got, err)
		}
		return fill(w)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	a := mustImport(t, s, "one", "web:latest", "web:1")
	b := mustImport(t, s, "two", "db:latest")
	byName := usedBy(a.ID, "m1", "m2")
	// One of several names can go while the image is in use.
	if _, err := s.Remove(t.Context(), "web:1", byName, false); err != nil {
		t.Error(err)
	}
	_, err := s.Remove(t.Context(), "web", byName, true)
	if machine.CodeOf(err) != "image.in_use" || !strings.Contains(err.Error(), "m1, m2") {
		t.Errorf("%v", err)
	}
	if _, err := s.Remove(t.Context(), "db", byName, false); err != nil {
		t.Error(err)
	}
	if _, err := s.Open(b.ID); machine.CodeOf(err) != "image.gone" {
		t.Errorf("%v", err)
	}
	if _, err := s.Remove(t.Context(), "db", byName, false); machine.CodeOf(err) != "image.not_found" {
		t.Errorf("%v", err)
	}
	if _, err := s.Remove(t.Context(), a.ID[:10], nobody, false); err != nil {
		t.Error(err)
	}
	if left := list(t, s); len(left) != 0 {
		t.Errorf("%v", left)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	old := mustImport(t, s, "one", "web:latest")
	used := mustImport(t, s, "two", "web:latest")
	mustImport(t, s, "three", "web:latest")
	inUse := usedBy(used.ID, "m")
	for _, dry := range []bool{true, false} {
		got, err := s.Prune(t.Context(), inUse, unnamed, dry)
		if err != nil || len(got.Images) != 1 || got.Images[0].ID != old.ID || got.Bytes == 0 {
			t.Errorf("dry %v: %+v, %v", dry, got, err)
		}
	}
	got, err := s.Prune(t.Context(), inUse, all, false)
	if err != nil || len(got.Images) != 1 || len(list(t, s)) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// What cannot be read proves nothing: no image goes because its name is hidden.
func TestPruneStopsWhereNamesCannotBeRead(t *testing.T) {
	t.Parallel()
	for what, harm := range map[string]func(refs string) error{
		"an empty name file": func(refs string) error {
			files, err := os.ReadDir(refs)
			if err != nil {
				return err
			}
			return os.Truncate(filepath.Join(refs, files[0].Name()), 0)
		},
		"no folder of names": func(refs string) error {
			if err := os.RemoveAll(refs); err != nil {
				return err
			}
			return os.WriteFile(refs, nil, 0o600) // reading it fails, for root too
		},
	} {
		s := New(t.TempDir())
		img := mustImport(t, s, "one", "web:latest")
		if err := harm(filepath.Join(s.dir, refsDir)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Prune(t.Context(), nobody, unnamed, false); err == nil {
			t.Errorf("%s: pruned", what)
		}
		if _, err := s.Open(img.ID); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Users are asked in the store's lock, after the image was found.
func TestRemoveStopsWhereUsersCannotBeRead(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	img := mustImport(t, s, "one", "web:latest")
	broken := func() (func(string) []string, error) { return nil, machine.Errorf("state.unreadable", "", "no") }
	if _, err := s.Remove(t.Context(), "web", broken, true); machine.CodeOf(err) != "state.unreadable" {
		t.Error(err)
	}
	if _, err := s.Prune(t.Context(), broken, all, false); machine.CodeOf(err) != "state.unreadable" {
		t.Error(err)
	}
	if _, err := s.Open(img.ID); err != nil {
		t.Error(err)
	}
}

// Whatever happens to an image's files, it is never booted as if it were whole.
func TestDamage(t *testing.T) {
	t.Parallel()
	tests := map[string]func(dir string) error{
		"rootfs missing":   func(dir string) error { return os.Remove(filepath.Join(dir, rootfsFile)) },
		"rootfs cut":       func(dir string) error { return os.Truncate(filepath.Join(dir, rootfsFile), 4096) },
		"manifest cut":     func(dir string) error { return os.Truncate(filepath.Join(dir, metaFile), 100) },
		"manifest changed": func(dir string) error { return change(dir, `"serve"`, `"shell"`) },
		"manifest newer":   func(dir string) error { return change(dir, `"schema": 1`, `"schema": 99`) },
		"unknown field":    func(dir string) error { return change(dir, `"schema": 1`, `"schema": 1, "x": 2`) },
	}
	for name, hurt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(t.TempDir())
			img := mustImport(t, s, "one", "web:latest")
			if err := hurt(filepath.Join(s.dir, img.ID)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Find("web"); machine.CodeOf(err) != "image.damaged" {
				t.Errorf("%v", err)
			}
			if _, err := s.Remove(t.Context(), "web", nobody, false); machine.CodeOf(err) != "image.damaged" {
				t.Errorf("removed without force: %v", err)
			}
			// Imported again, it is whole again.
			if again := mustImport(t, s, "one"); again.ID != img.ID {
				t.Errorf("%s", again.ID)
			}
			if _, err := s.Find("web"); err != nil {
				t.Error(err)
			}
		})
	}
	s := New(t.TempDir())
	img := mustImport(t, s, "one", "web:latest")
	f, err := os.OpenFile(img.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1}, 4097); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if err := s.Verify(t.Context(), img.ID); machine.CodeOf(err) != "image.damaged" {
		t.Errorf("one changed byte: %v", err)
	}
	if _, err := s.Remove(t.Context(), "web", nobody, true); err != nil {
		t.Error(err)
	}
}

func change(dir, old, with string) error {
	path := filepath.Join(dir, metaFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.Replace(string(data), old, with, 1)), 0o600)
}

func TestParseName(t *testing.T) {
	t.Parallel()
	good := map[string]Name{
		"web": "web:latest", "web:1.2": "web:1.2", "team/web": "team/web:latest", "docker.io/library/redis:7": "redis:7",
		"docker.io/team/web": "team/web:latest", "localhost:5000/web": "localhost:5000/web:latest", "ghcr.io/a/b_c:V1": "ghcr.io/a/b_c:V1",
		"web@sha256:" + strings.Repeat("a", 64): Name("web@sha256:" + strings.Repeat("a", 64)),
	}
	for text, want := range good {
		got, err := ParseName(text)
		if err != nil || got != want {
			t.Errorf("ParseName(%q): %q, %v", text, got, err)
		}
		if f := got.file(); strings.ContainsRune(f, '/') || f[0] == '.' {
			t.Errorf("file name %q", f)
		}
		if again, err := ParseName(string(got)); again != got {
			t.Errorf("%q read again is %q, %v", got, again, err)
		}
	}
	for _, text := range []string{"", ".", "..", "../x", "a/../b", "/a", "a/", "-a", "Web", "a b", "a\x00", "a\x1b[0m", "web:", "web:-", "a@sha256:1", "a@md5:" + strings.Repeat("a", 64), strings.Repeat("a", 300)} {
		if got, err := ParseName(text); machine.CodeOf(err) != "image.name" {
			t.Errorf("ParseName(%q): %q, %v", text, got, err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"web", "docker.io/library/redis:7", "localhost:5000/a/b@sha256:" + strings.Repeat("0", 64), "../x", "docker.io/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseName(text)
		if err != nil {
			return
		}
		if again, err := ParseName(string(n)); err != nil || again != n {
			t.Errorf("%q → %q → %q, %v", text, n, again, err)
		}
		if !fs.ValidPath(n.file()) || strings.ContainsRune(n.file(), '/') || len(n.file()) > 255 {
			t.Errorf("file name %q", n.file())
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add(`{"schema":1}`)
	data, _ := json.Marshal(Manifest{Schema: 1})
	f.Add(string(data))
	f.Fuzz(func(t *testing.T, text string) {
		m, err := decodeManifest(strings.NewReader(text))
		if err == nil && !validID(m.ID) {
			t.Errorf("accepted with id %q", m.ID)
		}
	})
}

func TestNearest(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	mustImport(t, s, "one", "webserver:latest")
	_, err := s.Find("webservr")
	var e *machine.Error
	if !errors.As(err, &e) || e.Code != "image.not_found" || !strings.Contains(e.Remedy, `"webserver"`) {
		t.Errorf("%v", err)
	}
}

// A name goes before an ID, so none may read like the ID of an image.
func TestNamesThatHideAnImage(t *testing.T) {
	s := New(t.TempDir())
	img, err := s.Ensure(t.Context(), "minimal")
	if err != nil {
		t.Fatal(err)
	}
	free := "abcdef"
	if strings.HasPrefix(img.ID, free) {
		free = "fedcba"
	}
	for text, ok := range map[string]bool{
		"341a46129f1c": false, img.ID: false, "sha256:341a46129f1c": false, img.ID[:6]: false, "docker.io/library/" + img.ID[:8]: false,
		free: true, "341a46129f1g": true, "341a46129f1c:1": true, "team/341a46129f1c": true, "img-341a46129f1c": true,
	} {
		n, err := ParseName(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Tag(t.Context(), n, img.ID); (err == nil) != ok || !ok && machine.CodeOf(err) != "image.name" {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, id := range []string{img.ID, img.ID[:6], "sha256:" + img.ID[:12]} {
		if got, err := s.Find(id); err != nil || got.ID != img.ID {
			t.Errorf("%s: %v, %v", id, got.ID, err)
		}
	}
}
