package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A guest writes the tar that is unpacked on the host: whatever it says, nothing is written
// outside the destination.
func TestAGuestsTarCannotLeaveItsDestination(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o6755, Size: 4}
	}
	for name, entries := range map[string][]tar.Header{
		"dot dot":            {file("../victim")},
		"deep dot dot":       {file("a/../../victim")},
		"absolute":           {file(victim)},
		"link then file":     {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside}, file("d/victim")},
		"link to the file":   {{Name: "f", Typeflag: tar.TypeSymlink, Linkname: victim}, file("f")},
		"relative link":      {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "../" + filepath.Base(outside)}, file("d/victim")},
		"hard link out":      {{Name: "h", Typeflag: tar.TypeLink, Linkname: victim}, file("h")},
		"hard link dot dot":  {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../victim"}, file("h")},
		"proc self root":     {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "/proc/self/root"}, file("d" + victim)},
		"folder over a link": {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "d", Typeflag: tar.TypeDir, Mode: 0o777}, file("d/victim")},
		"device":             {{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			tw := tar.NewWriter(&buf)
			for _, h := range entries {
				if err := tw.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
				if h.Typeflag == tar.TypeReg {
					_, _ = tw.Write([]byte("evil"))
				}
			}
			_ = tw.Close()
			dst := t.TempDir()
			_, err := unpackLocal(&buf, target{dir: dst})
			if got, _ := os.ReadFile(victim); string(got) != "safe" {
				t.Fatalf("the victim now says %q (%v)", got, err)
			}
			if left, _ := os.ReadDir(outside); len(left) != 1 {
				t.Fatalf("written outside: %v", left)
			}
			_ = filepath.WalkDir(dst, func(p string, d os.DirEntry, err error) error {
				if info, ierr := os.Lstat(p); err == nil && ierr == nil && info.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeDevice) != 0 {
					t.Errorf("%s has mode %v", p, info.Mode())
				}
				return nil
			})
		})
	}
}

func TestTreesComeBackAsTheyWere(t *testing.T) {
	src := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(src, "ro"), 0o755); err != nil {
		t.Fatal(err)
	}
	when := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	for name, mode := range map[string]os.FileMode{"a": 0o640, "ro/b": 0o400, "sp ace\nline": 0o755} {
		p := filepath.Join(src, name)
		if err := os.WriteFile(p, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(src, "ro"), 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(src, "ro"), 0o755) })
	var buf bytes.Buffer
	if _, err := packLocal(context.Background(), &buf, src, "copy", false); err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir()
	res, err := unpackLocal(&buf, target{dir: dst})
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dst, "copy/ro"), 0o755) })
	if err != nil || res.Files != 4 {
		t.Fatalf("%+v, %v", res, err)
	}
	for name, mode := range map[string]os.FileMode{"a": 0o640, "ro/b": 0o400, "sp ace\nline": 0o755} {
		p := filepath.Join(dst, "copy", name)
		data, err := os.ReadFile(p)
		info, serr := os.Stat(p)
		if err != nil || serr != nil || string(data) != name || info.Mode().Perm() != mode || !info.ModTime().Equal(when) {
			t.Errorf("%q: %q, %v, %v, %v", name, data, info, err, serr)
		}
	}
	if info, err := os.Stat(filepath.Join(dst, "copy/ro")); err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("folder mode: %v, %v", info, err)
	}
	if to, err := os.Readlink(filepath.Join(dst, "copy/link")); err != nil || to != "a" {
		t.Errorf("link: %q, %v", to, err)
	}
}

// The name of what is copied out is the one that was asked for, whatever the guest calls it.
func TestTheHostNamesWhatIsCopiedOut(t *testing.T) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, name := range []string{".ssh/", ".ssh/authorized_keys"} {
		h := tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o700
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	_ = tw.Close()
	dst := t.TempDir()
	if _, err := unpackLocal(&buf, target{dir: dst, base: "asked"}); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(dst)
	if len(left) != 1 || left[0].Name() != "asked" {
		t.Errorf("the guest chose a name: %v", left)
	}
}

// A tree can be copied over its own earlier copy, under whatever name: with hard links, which
// name other entries, and files that nobody may write.
func TestACopyOverTheLastOne(t *testing.T) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Name: "tree/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "tree/a", Typeflag: tar.TypeReg, Mode: 0o400, Size: 4},
		{Name: "tree/b", Typeflag: tar.TypeLink, Linkname: "tree/a"},
		{Name: "tree/c", Typeflag: tar.TypeSymlink, Linkname: "a"},
	} {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			_, _ = tw.Write([]byte("text"))
		}
	}
	_ = tw.Close()
	dst := t.TempDir()
	for range 2 {
		for base, want := range map[string]string{"": "tree/", "copy": "copy/", ".": ""} {
			res, err := unpackLocal(bytes.NewReader(buf.Bytes()), target{dir: dst, base: base})
			if err != nil || res.Files != 3 {
				t.Fatalf("base %q: %+v, %v", base, res, err)
			}
			for _, name := range []string{"a", "b", "c"} {
				if got, err := os.ReadFile(filepath.Join(dst, want+name)); err != nil || string(got) != "text" {
					t.Errorf("base %q: %s: %q, %v", base, name, got, err)
				}
			}
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dst, "*", ".mvm-copy-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestACopyThatDoesNotFitItsDestination(t *testing.T) {
	tarOf := func(kind byte) *bytes.Buffer {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		_ = tw.WriteHeader(&tar.Header{Name: "x", Typeflag: kind, Mode: 0o755})
		_ = tw.Close()
		return &buf
	}
	dst := t.TempDir()
	if err := os.WriteFile(filepath.Join(dst, "file"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		kind byte
		to   target
		want string
	}{
		"a folder over a file":     {tar.TypeDir, target{dir: dst, base: "file", onlyFile: true}, "cannot replace"},
		"a file as a new folder":   {tar.TypeReg, target{dir: dst, base: "new", onlyFolder: true}, "there is no folder"},
		"a folder below, a file's": {tar.TypeDir, target{dir: dst, base: "file"}, "not a directory"},
	} {
		if _, err := unpackLocal(tarOf(c.kind), c.to); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(dst, "file")); string(got) != "old" {
		t.Errorf("the file that was there says %q", got)
	}
}

// What cannot be read is left out of a tree and told; the kernel's files are read to their end,
// whatever size they state.
func TestPackingLeavesOutAndTells(t *testing.T) {
	src := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "z"), bytes.Repeat([]byte("z"), smallFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(src, "fifo"), 0o600); err != nil {
		t.Skipf("missing: a file system with FIFOs: %v", err)
	}
	var buf bytes.Buffer
	left, err := packLocal(context.Background(), &buf, src, "tree", false)
	if err != nil || left.err() == nil || !strings.Contains(left.err().Error(), "fifo: "+whySpecial) {
		t.Errorf("%v, left out: %v", err, left.err())
	}
	if res, err := unpackLocal(&buf, target{dir: t.TempDir()}); err != nil || res.Files != 1 || res.Bytes != smallFile+1 {
		t.Errorf("%+v, %v", res, err)
	}
	want, err := os.ReadFile("/proc/version")
	if err != nil {
		t.Skipf("missing: Linux's procfs: %v", err)
	}
	if left, err = packLocal(context.Background(), &buf, "/proc/version", "v", false); err != nil || left.n > 0 {
		t.Errorf("%v, left out: %v", err, left.err())
	}
	dst := t.TempDir()
	if _, err := unpackLocal(&buf, target{dir: dst}); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dst, "v")); !bytes.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzUnpackLocal(f *testing.F) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	_ = tw.WriteHeader(&tar.Header{Name: "../x", Typeflag: tar.TypeReg, Size: 1, Mode: 0o600})
	_, _ = tw.Write([]byte("x"))
	_ = tw.Close()
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		dst := filepath.Join(top, "dst")
		if err := os.Mkdir(dst, 0o700); err != nil {
			t.Fatal(err)
		}
		_, _ = unpackLocal(bytes.NewReader(data), target{dir: dst})
		if left, _ := os.ReadDir(top); len(left) != 1 {
			t.Errorf("written outside: %v", left)
		}
	})
}

func TestWhichSideOfACopyIsInAMachine(t *testing.T) {
	for in, want := range map[string][2]string{
		"web:/etc/hosts": {"web", "/etc/hosts"}, "web:": {"web", ""}, "web:a:b": {"web", "a:b"},
		"/tmp/a:b": {}, "./a:b": {}, "a.b:c": {}, "plain": {}, ":x": {},
	} {
		name, p, in2 := splitGuest(in)
		if in2 != (want[0] != "") || name != want[0] || p != want[1] {
			t.Errorf("splitGuest(%q) = %q, %q, %v", in, name, p, in2)
		}
	}
}

func TestLocalDestinations(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]target{
		dir: {dir: dir}, dir + "/new": {dir: dir, base: "new"}, dir + "/new/": {dir: dir, base: "new", onlyFolder: true},
		dir + "/file": {dir: dir, base: "file", onlyFile: true}, dir + "/link": {dir: dir, base: "file", onlyFile: true},
	} {
		if got, err := localTarget(in); err != nil || got != want {
			t.Errorf("localTarget(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{dir + "/no/such": "no such file", os.DevNull: "neither a file", dir + "/file/": "not a directory"} {
		if _, err := localTarget(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("localTarget(%q): %v", in, err)
		}
	}
}

// A guest's whole root has no name: what is in it goes into the destination as it is.
func TestUnpackAWholeRoot(t *testing.T) {
	for _, base := range []string{"new", "."} {
		dst := t.TempDir()
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		for _, h := range []tar.Header{
			{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"},
			{Name: "usr/", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "usr/file", Typeflag: tar.TypeReg, Mode: 0o644},
			{Name: "hard", Typeflag: tar.TypeLink, Linkname: "usr/file"},
		} {
			if err := tw.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := unpackLocal(&buf, target{dir: dst, base: base, onlyFolder: true}); err != nil {
			t.Fatalf("%s: %v", base, err)
		}
		for _, name := range []string{"bin", "usr/file", "hard"} {
			if _, err := os.Lstat(filepath.Join(dst, base, name)); err != nil {
				t.Errorf("%s: %v", base, err)
			}
		}
	}
}
