package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/disk"
)

// realTree has one of everything that a root file system has.
func realTree() []item {
	attrs := func(i item, kv ...string) item {
		i.PAXRecords = map[string]string{}
		for k := 0; k < len(kv); k += 2 {
			i.PAXRecords["SCHILY.xattr."+kv[k]] = kv[k+1]
		}
		return i
	}
	head := func(name string, flag byte, mode int64, change func(*tar.Header)) item {
		i := item{Header: header(name, flag, mode)}
		if change != nil {
			change(&i.Header)
		}
		return i
	}
	long := strings.Repeat("n", 200)
	list := []item{
		dir("./"), dir("./etc/"), file("./etc/passwd", "root:x:0:0::/:/bin/sh\n"), dir("usr/"), dir("usr/bin"),
		head("usr/bin/su", tar.TypeReg, 0o4755, nil), head("tmp/", tar.TypeDir, 0o1777, nil),
		head("owned", tar.TypeReg, 0o640, func(h *tar.Header) { h.Uid, h.Gid = 70000, 3000000000 }),
		head("dev/", tar.TypeDir, 0o755, nil),
		head("dev/null", tar.TypeChar, 0o666, func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 }),
		head("dev/nvme", tar.TypeBlock, 0o660, func(h *tar.Header) { h.Devmajor, h.Devminor = 259, 300 }),
		head("dev/pipe", tar.TypeFifo, 0o600, nil),
		symlink("bin", "usr/bin"), symlink("sh", strings.Repeat("../x/", 30)),
		hardlink("etc/shadow", "./etc/passwd"), hardlink("sh2", "sh"),
		attrs(file("ping", "x"), "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "user.n", "1\x002"),
		attrs(dir("labelled"), "user.big", noise(3000), "trusted.t", "v"),
		head("old", tar.TypeReg, 0o644, func(h *tar.Header) { h.ModTime = time.Unix(1, 999999999) }),
		head("future", tar.TypeReg, 0o644, func(h *tar.Header) { h.ModTime = time.Date(2106, 2, 7, 6, 28, 17, 5, time.UTC) }),
		file("long/"+long+"/"+long+"/name", "l"), file("ümlaut-日本\xff\n", "u"),
		file("holes", "a"+string(make([]byte, 1<<20))+"b"), file("big", noise(3<<20+17)),
	}
	for i := range 300 {
		list = append(list, file(fmt.Sprintf("crowd/file-with-a-name-%d", i), noise(i)))
	}
	return list
}

// hostTree lists a folder of the host as tree lists an image.
func hostTree(t *testing.T, top string) string {
	t.Helper()
	a := imageOf(t, func(w *disk.Writer) (Stats, error) { return Stats{}, plainCopy(w, top) })
	return detailed(t, a)
}

// plainCopy writes a folder by the standard library alone, to be an independent witness.
func plainCopy(w *disk.Writer, top string) error {
	names := map[uint64]string{}
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(top, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		e := disk.Entry{
			Path: rel, Mode: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid,
			ModTime: time.Unix(st.Mtim.Unix()), Xattrs: lxattrs(path),
		}
		if first, ok := names[st.Ino]; ok && !d.IsDir() {
			return w.Add(disk.Entry{Path: rel, Type: disk.TypeHardlink, Target: first}, nil)
		}
		names[st.Ino] = rel
		switch d.Type() {
		case 0:
			p, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			e.Type, e.Size = disk.TypeFile, int64(len(p))
			return w.Add(e, bytes.NewReader(p))
		case fs.ModeDir:
			e.Type = disk.TypeDir
		case fs.ModeSymlink:
			e.Type = disk.TypeSymlink
			e.Target, err = os.Readlink(path)
		case fs.ModeNamedPipe:
			e.Type = disk.TypeFIFO
		default:
			e.Type = disk.TypeBlock
			if d.Type()&fs.ModeCharDevice != 0 {
				e.Type = disk.TypeChar
			}
			e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		}
		return errors.Join(err, w.Add(e, nil))
	})
}

func lxattrs(path string) map[string][]byte {
	p := make([]byte, 65536)
	n, err := unix.Llistxattr(path, p)
	if err != nil || n == 0 {
		return nil
	}
	attrs := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(p[:n]), "\x00"), "\x00") {
		v := make([]byte, 65536)
		n, err := unix.Lgetxattr(path, name, v)
		if err == nil {
			attrs[name] = v[:n]
		}
	}
	return attrs
}

// detailed lists an image with times and everything.
func detailed(t *testing.T, a applied) string {
	t.Helper()
	var times []string
	if err := a.fs.Walk(func(e disk.Entry) error {
		if e.Type != disk.TypeHardlink {
			times = append(times, fmt.Sprintf("%s %04o %d.%09d", e.Path, e.Mode, e.ModTime.Unix(), e.ModTime.Nanosecond()))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return a.tree(t) + lines(times...)
}

func needRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to " + why)
	}
}

// extract unpacks with GNU tar, one layer after the other.
func extract(t *testing.T, layers ...[]byte) string {
	t.Helper()
	needRoot(t, "make devices and owners on the host")
	if out, err := exec.CommandContext(t.Context(), "tar", "--version").Output(); err != nil || !bytes.Contains(out, []byte("GNU tar")) {
		t.Skip("needs GNU tar")
	}
	top := t.TempDir()
	probe := filepath.Join(t.TempDir(), "x")
	if err := errors.Join(os.WriteFile(probe, nil, 0o600), unix.Setxattr(probe, "user.x", []byte("v"), 0)); err != nil {
		t.Skipf("needs a file system with extended attributes: %v", err)
	}
	for _, l := range layers {
		cmd := exec.CommandContext(t.Context(), "tar", "-xp", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", top, "-f", "-")
		cmd.Stdin = bytes.NewReader(l)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
	}
	return top
}

// fixImplicit gives folders that no entry names the attributes that ours have.
func fixImplicit(t *testing.T, top string, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		path := filepath.Join(top, d)
		if err := errors.Join(os.Chmod(path, 0o755), os.Chtimes(path, time.Unix(0, 0), time.Unix(0, 0))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAgainstGNUTar(t *testing.T) {
	lower := pack(t, realTree()...)
	upper := pack(t, dir("etc"), file("etc/passwd", "changed\n"), file("crowd/new", "n"), hardlink("crowd/link", "crowd/new"), dir("labelled"),
		file("bin/below-a-link", "b"), dir("usr/bin"))
	top := extract(t, lower, upper)
	long := strings.Repeat("n", 200)
	fixImplicit(t, top, "long/"+long+"/"+long, "long/"+long, "long", "crowd")
	a := apply(t, compressed(t, "gzip", lower), compressed(t, "zstd", upper))
	// GNU tar leaves the attributes of a folder that it names again without any.
	if err := unix.Removexattr(filepath.Join(top, "labelled"), "user.big"); err != nil {
		t.Log(err)
	}
	_ = unix.Removexattr(filepath.Join(top, "labelled"), "trusted.t")
	if d := cmp.Diff(hostTree(t, top), detailed(t, a)); d != "" {
		t.Errorf("GNU tar makes another tree (-tar +ours):\n%s", d)
	}
}

// TestFormatsOfGNUTar reads what GNU tar writes in each of its formats, sparse files of all
// kinds among them.
func TestFormatsOfGNUTar(t *testing.T) {
	top := extract(t, pack(t, realTree()...))
	holes := filepath.Join(top, "holes2")
	f, err := os.Create(holes)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(30) {
		if _, err := f.WriteAt([]byte(noise(5000)), i*100000); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(9<<20+1), f.Close()); err != nil {
		t.Fatal(err)
	}
	future := filepath.Join(top, "future") // ustar and old GNU know no such times
	if err := errors.Join(os.Chtimes(future, testTime, testTime)); err != nil {
		t.Fatal(err)
	}
	host := imageOf(t, func(w *disk.Writer) (Stats, error) { return Stats{}, plainCopy(w, top) })
	xattrs := []string{"--xattrs", "--xattrs-include=*"}
	for name, args := range map[string][]string{
		"pax":            append(xattrs, "--format=pax"),
		"pax sparse 0.0": append(xattrs, "--format=pax", "-S", "--sparse-version=0.0"),
		"pax sparse 0.1": append(xattrs, "--format=pax", "-S", "--sparse-version=0.1"),
		"pax sparse 1.0": append(xattrs, "--format=pax", "-S", "--sparse-version=1.0"),
		"gnu":            {"--format=gnu", "-S"}, "oldgnu": {"--format=oldgnu", "-S"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-c", "--numeric-owner", "-C", top}, args...)
			cmd := exec.CommandContext(t.Context(), "tar", append(args, ".")...)
			var complaints strings.Builder
			cmd.Stderr = &complaints
			p, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, &complaints)
			}
			a := apply(t, p)
			want, got := detailed(t, host), detailed(t, a)
			if !strings.HasPrefix(name, "pax") { // the others have no nanoseconds and no attributes
				want, got = withoutXattrs(host.tree(t)), withoutXattrs(a.tree(t))
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-host +ours):\n%s", d)
			}
		})
	}
}

func withoutXattrs(tree string) string {
	var out []string
	for line := range strings.SplitSeq(tree, "\n") {
		if !strings.HasPrefix(line, "ping ") && !strings.HasPrefix(line, "labelled ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

func TestFromDirAgainstGNUTar(t *testing.T) {
	top := extract(t, pack(t, realTree()...))
	a := imageOf(t, func(w *disk.Writer) (Stats, error) { return FromDir(t.Context(), w, top, Options{}) })
	if d := cmp.Diff(hostTree(t, top), detailed(t, a)); d != "" {
		t.Errorf("(-host +ours):\n%s", d)
	}
	b := imageOf(t, func(w *disk.Writer) (Stats, error) { return FromDir(t.Context(), w, top, Options{}) })
	if !bytes.Equal(a.bytes(t), b.bytes(t)) {
		t.Error("the same folder gave another image")
	}
}

// TestToTarAgainstGNUTar: what we pack, GNU tar unpacks to the same tree, and so do we.
func TestToTarAgainstGNUTar(t *testing.T) {
	a := apply(t, pack(t, realTree()...))
	p := toTar(t, a)
	if d := cmp.Diff(hostTree(t, extract(t, p)), detailed(t, a)); d != "" {
		t.Errorf("(-tar +image):\n%s", d)
	}
}

func TestFromExt4MadeByMke2fs(t *testing.T) {
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("needs mke2fs (e2fsprogs)")
	}
	top := extract(t, pack(t, realTree()...))
	if err := unix.Removexattr(filepath.Join(top, "labelled"), "user.big"); err != nil { // too big for mke2fs
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "foreign")
	cmd := exec.CommandContext(t.Context(), "mke2fs", "-q", "-t", "ext4", "-d", top, image, "64M")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	foreign, err := disk.Open(f, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	a := imageOf(t, func(w *disk.Writer) (Stats, error) { return FromExt4(t.Context(), w, foreign, Options{}) })
	plain := func(tree string) []string { // mke2fs copies a symlink with two names twice
		list := strings.Split(tree, "\n")
		return slices.DeleteFunc(list, func(s string) bool { return strings.HasPrefix(s, "sh2 ") })
	}
	want := imageOf(t, func(w *disk.Writer) (Stats, error) { return Stats{}, plainCopy(w, top) }).tree(t)
	if d := cmp.Diff(plain(want), plain(a.tree(t))); d != "" {
		t.Errorf("(-host +ours):\n%s", d)
	}
}
