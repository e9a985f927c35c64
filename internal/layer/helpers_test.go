package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/mvmctl/mvmctl/internal/disk"
)

var testTime = time.Date(2024, 2, 29, 12, 34, 56, 123456789, time.UTC)

// item is an entry of a tar file and its content.
type item struct {
	tar.Header
	data string
}

func header(name string, flag byte, mode int64) tar.Header {
	return tar.Header{Name: name, Typeflag: flag, Mode: mode, ModTime: testTime, Format: tar.FormatPAX}
}

func dir(name string) item          { return item{Header: header(name, tar.TypeDir, 0o755)} }
func file(name, data string) item   { return item{header(name, tar.TypeReg, 0o644), data} }
func whiteout(name string) item     { return item{Header: header(name, tar.TypeReg, 0)} }
func symlink(name, to string) item  { return linked(name, to, tar.TypeSymlink) }
func hardlink(name, to string) item { return linked(name, to, tar.TypeLink) }

func linked(name, to string, flag byte) item {
	h := header(name, flag, 0o777)
	h.Linkname = to
	return item{Header: h}
}

// with changes the header of an item.
func (i item) with(change func(*tar.Header)) item {
	if i.PAXRecords != nil {
		i.PAXRecords = maps.Clone(i.PAXRecords)
	}
	change(&i.Header)
	return i
}

// pack makes a tar file.
func pack(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		if i.Typeflag == tar.TypeReg {
			i.Size = int64(len(i.data))
		}
		if err := w.WriteHeader(&i.Header); err != nil {
			t.Fatalf("%q: %v", i.Name, err)
		}
		if _, err := io.WriteString(w, i.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// stored is a layer of bytes in memory.
func stored(p []byte) Layer {
	return Layer{Name: "test", Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(p)), nil
	}}
}

func compressed(t testing.TB, how string, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch how {
	case "none":
		return p
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zstd":
		w, err = zstd.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	}
	if err == nil {
		_, err = w.Write(p)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// applied is an image made of layers.
type applied struct {
	path  string
	stats Stats
	fs    *disk.FS
}

// apply writes layers to an image file and checks it with e2fsck.
func apply(t testing.TB, layers ...[]byte) applied {
	t.Helper()
	var list []Layer
	for _, l := range layers {
		list = append(list, stored(l))
	}
	return imageOf(t, func(w *disk.Writer) (Stats, error) { return Apply(t.Context(), w, list, Options{}) })
}

func imageOf(t testing.TB, fill func(*disk.Writer) (Stats, error)) applied {
	t.Helper()
	a := applied{path: filepath.Join(t.TempDir(), "image")}
	err := disk.CreateFile(a.path, disk.Options{}, func(w *disk.Writer) (err error) {
		a.stats, err = fill(w)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, a.path)
	f, err := os.Open(a.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	st, err := f.Stat()
	if err == nil {
		a.fs, err = disk.Open(f, st.Size())
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a applied) bytes(t testing.TB) []byte {
	t.Helper()
	p, err := os.ReadFile(a.path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestImagesAreChecked says when the other tests did without e2fsck.
func TestImagesAreChecked(t *testing.T) {
	if _, err := exec.LookPath("e2fsck"); err != nil {
		t.Skipf("needs e2fsck (e2fsprogs) to check the images of the other tests: %v", err)
	}
}

// fsck runs e2fsck where it is; see TestImagesAreChecked.
func fsck(t testing.TB, image string) {
	t.Helper()
	if _, err := exec.LookPath("e2fsck"); err != nil {
		return
	}
	if out, err := exec.CommandContext(t.Context(), "e2fsck", "-fn", image).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

// tree lists an image, one line for each entry: what a test wants to see of it.
func (a applied) tree(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	err := a.fs.Walk(func(e disk.Entry) error {
		if e.Path == "." && e.Mode == 0o755 && e.UID == 0 {
			return nil
		}
		fmt.Fprintf(&b, "%s %s", e.Path, describe(e))
		if e.Type == disk.TypeFile {
			r, _, err := a.fs.Open(e.Path)
			if err != nil {
				return err
			}
			p, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			if len(p) > 200 {
				p = fmt.Appendf(nil, "%d bytes, %x", len(p), sha256.Sum256(p))
			}
			fmt.Fprintf(&b, " %q", p)
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func describe(e disk.Entry) string {
	s := e.Type.String()
	switch e.Type {
	case disk.TypeFile, disk.TypeDir:
		if e.Mode != 0o755 && e.Mode != 0o644 {
			s += fmt.Sprintf(" %04o", e.Mode)
		}
	case disk.TypeSymlink, disk.TypeHardlink:
		s += " → " + e.Target
	case disk.TypeChar, disk.TypeBlock:
		s += fmt.Sprintf(" %d:%d", e.Major, e.Minor)
	}
	if e.UID != 0 || e.GID != 0 {
		s += fmt.Sprintf(" %d:%d", e.UID, e.GID)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		s += fmt.Sprintf(" %s=%q", name, e.Xattrs[name])
	}
	return s
}

// lines joins what tree should say.
func lines(list ...string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}
