package disk

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mount loop-mounts an image and unmounts it at the end of the test, or earlier by the
// returned function. The loop device goes with the mount, and the file is whole: the mount is in
// a namespace of the calling goroutine's, so that no container which another test starts in this
// moment has a copy of it, with which the file system would live on after the unmount.
func mount(t *testing.T, image, options string) (dir string, unmount func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("needs loop devices: %v", err)
	}
	dir = t.TempDir()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its namespace too
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Skipf("needs a mount namespace: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	runTool(t, "mount", "-t", "ext4", "-o", "loop,"+options, image, dir)
	mounted := true
	unmount = func() {
		if mounted {
			mounted = false
			if err := unix.Unmount(dir, 0); err != nil {
				t.Errorf("unmounting: %v", err)
				_ = unix.Unmount(dir, unix.MNT_DETACH)
			}
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// hostTree reads a mounted tree with system calls, in Walk's order.
func hostTree(t *testing.T, root string) []Entry {
	t.Helper()
	var out []Entry
	seen := map[uint64]string{}
	err := filepath.WalkDir(root, func(full string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path, err := filepath.Rel(root, full)
		if err != nil {
			return err
		}
		e, ino, err := hostEntry(full, path)
		if err != nil {
			return err
		}
		if first, ok := seen[ino]; ok && e.Type != TypeDir {
			e = Entry{Path: path, Type: TypeHardlink, Target: first}
		}
		seen[ino] = path
		out = append(out, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func hostEntry(full, path string) (Entry, uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return Entry{}, 0, err
	}
	t, ok := (&diskInode{mode: uint16(st.Mode)}).entryType()
	if !ok {
		return Entry{}, 0, fmt.Errorf("%s: mode %#o", full, st.Mode)
	}
	e := Entry{
		Path: path, Type: t, Mode: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid,
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec).UTC(),
	}
	var err error
	switch t {
	case TypeFile:
		e.Size = st.Size
	case TypeSymlink:
		e.Size = st.Size
		if e.Target, err = os.Readlink(full); err != nil {
			return e, 0, err
		}
	case TypeChar, TypeBlock:
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	e.Xattrs, err = hostXattrs(full)
	return e, st.Ino, err
}

func hostXattrs(full string) (map[string][]byte, error) {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(full, buf)
	if err != nil || n == 0 {
		return nil, err
	}
	out := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(full, name, value)
		if err != nil {
			return nil, err
		}
		out[name] = value[:n]
	}
	return out, nil
}

// kernelLog returns the lines of the kernel log about ext4 since the call before.
func kernelLog(t *testing.T) func(device string) string {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Logf("kernel log not read: %v", err)
		return func(string) string { return "" }
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Logf("kernel log not read: %v", err)
	}
	return func(device string) string {
		var out strings.Builder
		buf := make([]byte, 8192)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil || n == 0 {
				return out.String()
			}
			if line := buf[:n]; bytes.Contains(line, []byte("("+device+")")) || bytes.Contains(line, []byte("(device "+device+")")) || bytes.Contains(line, []byte(": "+device+"-")) {
				out.Write(line)
			}
		}
	}
}

// deviceOf returns the kernel's name of the loop device that is mounted at dir.
func deviceOf(t *testing.T, dir string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("loop%d", unix.Minor(st.Dev))
}

func TestKernelReadsWhatWeWrite(t *testing.T) {
	list := nastyTree()
	for name, o := range map[string]Options{
		"fitted":  {Label: "fitted", Time: testTime},
		"journal": {Size: 1 << 30, Journal: true, Time: testTime},
		"tight":   {Size: 64 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			image := build(t, o, list)
			fsck(t, image)
			log := kernelLog(t)
			dir, unmount := mount(t, image, "ro")
			device := deviceOf(t, dir)
			if d := diffEntries(want(list, o), hostTree(t, dir)); d != "" {
				t.Errorf("tree differs (-want +got):\n%s", d)
			}
			checkContents(t, list, func(path string) ([]byte, error) {
				return os.ReadFile(filepath.Join(dir, path))
			})
			for _, path := range []string{"sparse/middle", "sparse/all", "sparse/fragments"} {
				var st unix.Stat_t
				if err := unix.Stat(filepath.Join(dir, path), &st); err != nil || st.Blocks*512 > st.Size*6/10 {
					t.Errorf("%s: %d bytes used of %d, error %v", path, st.Blocks*512, st.Size, err)
				}
			}
			unmount()
			if s := log(device); strings.Contains(s, "error") || strings.Contains(s, "warning") {
				t.Errorf("kernel log: %s", s)
			} else {
				t.Log(s)
			}
		})
	}
}
