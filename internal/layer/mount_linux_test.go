package layer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/disk"
)

// tmpfs mounts a file system with room for size bytes at dir.
func tmpfs(t *testing.T, dir string, size int) {
	t.Helper()
	needRoot(t, "mount a tmpfs")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestFullHost(t *testing.T) {
	dir := t.TempDir()
	tmpfs(t, dir, 2<<20)
	image := filepath.Join(dir, "image")
	err := disk.CreateFile(image, disk.Options{}, func(w *disk.Writer) error {
		_, err := Apply(t.Context(), w, []Layer{stored(pack(t, file("a", noise(8<<20))))}, Options{})
		return err
	})
	wantCode(t, err, "limit.disk")
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestFromDirStaysInItsFileSystem(t *testing.T) {
	dir := t.TempDir()
	inner := filepath.Join(dir, "mounted")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	tmpfs(t, inner, 1<<20)
	if err := os.WriteFile(filepath.Join(inner, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := imageOf(t, func(w *disk.Writer) (Stats, error) { return FromDir(t.Context(), w, dir, Options{}) })
	if tree := a.tree(t); !strings.HasPrefix(tree, "mounted directory") || strings.Contains(tree, "mounted/x") {
		t.Errorf("got %s", tree)
	}
	if len(a.stats.Skipped) != 1 || !strings.HasPrefix(a.stats.Skipped[0], "mounted:") {
		t.Errorf("skipped %v", a.stats.Skipped)
	}
}
