package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// fillTree makes the kernel work on a mounted image: many names in one directory, links,
// renames, removals, xattrs, until the image is full.
func fillTree(t *testing.T, dir string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(filepath.Join(dir, "crowd"), 0o755)) // may be there, and indexed
	for i := range 3000 {
		check(os.WriteFile(filepath.Join(dir, "crowd", fmt.Sprintf("kernel-made-%d", i)), noise(i%300), 0o644))
	}
	for i := 0; i < 3000; i += 3 {
		check(os.Remove(filepath.Join(dir, "crowd", fmt.Sprintf("kernel-made-%d", i))))
	}
	for i := 1; i < 3000; i += 3 {
		old := filepath.Join(dir, "crowd", fmt.Sprintf("kernel-made-%d", i))
		check(os.Rename(old, old+strings.Repeat("-renamed", 20)))
	}
	check(unix.Setxattr(filepath.Join(dir, "crowd"), "user.k", noise(1000), 0))
	check(os.Symlink(strings.Repeat("s", 300), filepath.Join(dir, "symlink")))
	check(os.WriteFile(filepath.Join(dir, "fragments"), fragments(1500), 0o644))
	f, err := os.Create(filepath.Join(dir, "filler"))
	check(err)
	defer f.Close()
	p := noise(1 << 20)
	for {
		if _, err := f.Write(p); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
	}
}

func TestKernelWritesToOurImages(t *testing.T) {
	for name, tt := range map[string]struct {
		o    Options
		list []object
	}{
		"empty":      {Options{Size: 300 << 20, Journal: true}, nil},
		"no journal": {Options{Size: 100 << 20}, nil},
		"filled":     {Options{Size: 200 << 20, Journal: true}, nastyTree()},
	} {
		t.Run(name, func(t *testing.T) {
			image := build(t, tt.o, tt.list)
			log := kernelLog(t)
			dir, unmount := mount(t, image, "rw,discard")
			device := deviceOf(t, dir)
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			if st.Bfree != st.Bavail {
				// ext4 itself keeps up to 4096 blocks for delayed allocation; -m 0 otherwise.
				t.Logf("%d blocks free, %d available", st.Bfree, st.Bavail)
			}
			fillTree(t, dir)
			expect := hostTree(t, dir)
			unmount()
			if s := log(device); strings.Contains(s, "error") || strings.Contains(s, "warning") {
				t.Errorf("kernel log: %s", s)
			}
			fsck(t, image)
			if d := diffEntries(expect, walkAll(t, openImage(t, image))); d != "" {
				t.Errorf("our reader sees another tree than the kernel:\n%s", d)
			}
			checkContents(t, []object{file("fragments", 0, fragments(1500))}, readFrom(openImage(t, image)))
		})
	}
}

// tmpfs mounts a host file system with room for size bytes.
func tmpfs(t *testing.T, size int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestFullHostIsENOSPC(t *testing.T) {
	dir := tmpfs(t, 4<<20)
	small := build(t, Options{Size: 64 << 20}, []object{file("f", 0o644, noise(8<<20))})
	for name, make := range map[string]func(image string) error{
		"content": func(image string) error {
			return CreateFile(image, Options{}, func(w *Writer) error {
				return w.Add(Entry{Path: "f", Type: TypeFile, Size: 8 << 20}, io.LimitReader(repeat{noise(1 << 20)}, 8<<20))
			})
		},
		"many small files": func(image string) error {
			return CreateFile(image, Options{Size: 1 << 30, Journal: true}, func(w *Writer) error {
				return addAll(nastyTree())(w)
			})
		},
		"tables": func(image string) error { // every group written to has bitmaps
			return CreateFile(image, Options{Size: 100 << 30, Inodes: 1}, func(w *Writer) error {
				for i := range 12000 {
					if err := w.Add(Entry{Path: fmt.Sprint(i), Type: TypeSymlink, Target: strings.Repeat("x", 50)}, nil); err != nil {
						return err
					}
				}
				return w.Add(Entry{Path: "f", Type: TypeFile, Size: 3 << 20}, io.LimitReader(repeat{noise(1 << 20)}, 3<<20))
			})
		},
		"copy": func(image string) error { return CopySparse(image, small) },
		"drive": func(image string) error {
			return CreateDrive(image, "d", 0, []File{{"f", 0o600, noise(5 << 20)}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := make(filepath.Join(dir, "image"))
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("error %v, want ENOSPC", err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A disk grows while it is mounted (EXT4_IOC_RESIZE_FS): what a guest does after its host
// has lengthened the image.
func TestKernelGrowsOurImages(t *testing.T) {
	needTool(t, "resize2fs")
	if err := resizeAllowed(); err != nil {
		t.Skip(err)
	}
	// Within one block of descriptors, and beyond it: then the kernel goes on with meta_bg.
	for _, size := range []int64{3<<30 + 4096*9, 40 << 30} {
		list := without(nastyTree(), func(o object) bool { return !strings.HasPrefix(o.Path, "attr/") })
		image := build(t, Options{Size: 1 << 30, Journal: true}, list)
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
		dir, unmount := mount(t, image, "rw")
		device := strings.TrimSpace(runTool(t, "findmnt", "-no", "SOURCE", dir))
		runTool(t, "resize2fs", device)
		expect := hostTree(t, dir)
		unmount()
		fsck(t, image)
		fs := openImage(t, image)
		if got := fs.Info().Blocks * 4096; got < size-1<<20 {
			t.Errorf("grew to %d bytes of %d", got, size)
		}
		if d := diffEntries(expect, walkAll(t, fs)); d != "" {
			t.Errorf("our reader sees another tree than the kernel:\n%s", d)
		}
	}
}

// resizeAllowed asks for CAP_SYS_RESOURCE, which root in a container may lack.
func resizeAllowed() error {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return errors.New("needs CAP_SYS_RESOURCE to resize a mounted file system")
	}
	return nil
}
