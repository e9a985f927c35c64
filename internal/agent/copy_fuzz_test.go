//go:build unix

package agent

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever a tar holds, unpacking it changes nothing outside its folder, leaves no temporary
// file and does not panic.
func FuzzUnpack(f *testing.F) {
	seed := func(headers ...tar.Header) {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		for _, h := range headers {
			h.Size = 0
			if h.Typeflag == tar.TypeReg {
				h.Size = 3
			}
			if tw.WriteHeader(&h) == nil && h.Size > 0 {
				tw.Write([]byte("abc"))
			}
		}
		tw.Close()
		f.Add(buf.Bytes())
	}
	seed(tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Mode: 0o6755}, tar.Header{Typeflag: tar.TypeLink, Name: "c", Linkname: "a/b"})
	seed(tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, tar.Header{Typeflag: tar.TypeReg, Name: "l/evil"})
	seed(tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o700}, tar.Header{Typeflag: tar.TypeFifo, Name: "d/f"})
	seed(tar.Header{Typeflag: tar.TypeReg, Name: "../evil"}, tar.Header{Typeflag: tar.TypeReg, Name: "/evil"})
	seed(tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}})
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		inside := filepath.Join(base, "inside")
		if err := os.Mkdir(inside, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(base, "secret"), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		dir, err := os.OpenRoot(inside)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		u := newUnpacker(dir)
		u.root = false // owners in the tar are anybody's
		_ = u.run(bytes.NewReader(data))

		entries, err := os.ReadDir(base)
		if err != nil || len(entries) != 2 {
			t.Fatalf("%v, %v", entries, err)
		}
		st, err := os.Stat(filepath.Join(base, "secret"))
		if err != nil || st.Mode() != 0o600 || st.Size() != 6 {
			t.Fatalf("%v, %v", st, err)
		}
		filepath.WalkDir(inside, func(p string, d fs.DirEntry, err error) error {
			if strings.Contains(p, ".mvm-copy-") && !bytes.Contains(data, []byte(".mvm-copy-")) {
				t.Fatalf("%s was left", p)
			}
			os.Chmod(p, 0o700) // so that t.TempDir can be removed
			return nil
		})
	})
}

// A path is resolved to one that is below the root, without links in it.
func FuzzResolve(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "../x", "abs/etc/passwd", "up/../up/up/x", "loop", "a//./b/../c", "rel/b"} {
		f.Add(s)
	}
	base := f.TempDir()
	os.MkdirAll(filepath.Join(base, "a/b"), 0o755)
	for name, target := range map[string]string{"abs": "/", "up": "../..", "loop": "loop", "rel": "a", "a/back": "../a/b", "a/b/far": "/a/../../../a"} {
		os.Symlink(target, filepath.Join(base, name))
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { root.Close() })
	f.Fuzz(func(t *testing.T, name string) {
		got, err := resolve(root, name, true)
		if err != nil {
			return
		}
		if !filepath.IsLocal(got) {
			t.Fatalf("%q is %q", name, got)
		}
		at := base
		for elem := range strings.SplitSeq(got, "/") {
			at = filepath.Join(at, elem)
			if st, err := os.Lstat(at); err == nil && st.Mode()&fs.ModeSymlink != 0 {
				t.Fatalf("%q is %q, where %s is a link", name, got, at)
			}
		}
	})
}
