package initrd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestFullCache: a cache without room says so, and what makes room in a cache.
func TestFullCache(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("needs a mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	in := testInput(t)
	write(t, in.Agent, make([]byte, 64<<10))
	_, err := Build(t.Context(), dir, in)
	var e *machine.Error
	if !errors.As(err, &e) || e.Code != "limit.disk" || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(e.Remedy, "mvmctl cache prune --all") {
		t.Fatalf("%v: %+v", err, e)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "initrd", "*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}
