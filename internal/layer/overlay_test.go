package layer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/disk"
)

// overlayImage writes a small image and opens it.
func overlayImage(t *testing.T, entries ...disk.Entry) *disk.FS {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	err := disk.CreateFile(path, disk.Options{Size: 16 << 20, Journal: true}, func(w *disk.Writer) error {
		for _, e := range entries {
			content := e.Target
			if e.Type == disk.TypeFile {
				e.Target, e.Size = "", int64(len(content))
				if err := w.Add(e, strings.NewReader(content)); err != nil {
					return err
				}
				continue
			}
			if err := w.Add(e, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	fs, err := disk.Open(f, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// TestFromOverlay: what overlayfs would show is what is written.
func TestFromOverlay(t *testing.T) {
	t.Parallel()
	d := func(path string, opaque bool) disk.Entry {
		e := disk.Entry{Path: path, Type: disk.TypeDir, Mode: 0o750}
		if opaque {
			e.Xattrs = map[string][]byte{opaqueXattr: []byte("y"), "trusted.overlay.origin": []byte("x"), "user.keep": []byte("1")}
		}
		return e
	}
	f := func(path, content string) disk.Entry {
		return disk.Entry{Path: path, Type: disk.TypeFile, Mode: 0o644, Target: content}
	}
	base := overlayImage(t, d("etc", false), f("etc/kept", "base"), f("etc/changed", "base"), f("etc/gone", "base"),
		d("var", false), f("var/old", "base"), d("srv", false), f("srv/x", "base"), f("plain", "base"))
	upper := overlayImage(t, d("work", false), d("work/work", false), d("upper", false), d("upper/etc", false), f("upper/etc/changed", "upper"),
		disk.Entry{Path: "upper/etc/gone", Type: disk.TypeChar}, f("upper/etc/new", "upper"),
		disk.Entry{Path: "upper/etc/linked", Type: disk.TypeHardlink, Target: "upper/etc/new"},
		d("upper/var", true), f("upper/var/fresh", "upper"), disk.Entry{Path: "upper/srv", Type: disk.TypeChar},
		d("upper/plain", true), f("upper/plain/inside", "upper"),
		disk.Entry{Path: "upper/null", Type: disk.TypeChar, Major: 1, Minor: 3})
	out := filepath.Join(t.TempDir(), "out")
	err := disk.CreateFile(out, disk.Options{}, func(w *disk.Writer) error {
		_, err := FromOverlay(t.Context(), w, base, upper, "upper", Options{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := disk.Open(file, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err = fs.Walk(func(e disk.Entry) error {
		got[e.Path] = e.Type.String()
		switch e.Type {
		case disk.TypeFile:
			r, _, err := fs.Open(e.Path)
			if err != nil {
				return err
			}
			defer r.Close()
			data := make([]byte, e.Size)
			if _, err := r.Read(data); err != nil {
				return err
			}
			got[e.Path] = string(data)
		case disk.TypeDir:
			if len(e.Xattrs) > 1 || len(e.Xattrs) == 1 && string(e.Xattrs["user.keep"]) != "1" {
				t.Errorf("%s has %v", e.Path, e.Xattrs)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		".": "directory", "etc": "directory", "etc/kept": "base", "etc/changed": "upper", "etc/new": "hard link", "etc/linked": "upper",
		"var": "directory", "var/fresh": "upper", "plain": "directory", "plain/inside": "upper", "null": "character device",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
