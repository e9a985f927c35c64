package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// smallCache gives the lab a cache on a file system of its own with room for size, and returns
// what makes that more.
func (l *lab) smallCache(t *testing.T, size string) (grow func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs")
	}
	dir := filepath.Join(l.dir, "cache")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", dir, "tmpfs", 0, "mode=700,size="+size); err != nil {
		t.Skipf("needs a mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return func() {
		if err := syscall.Mount("none", dir, "", syscall.MS_REMOUNT, "size=256m"); err != nil {
			t.Fatal(err)
		}
	}
}

// A cache that is full at any moment of an import is said with a code and a remedy, leaves
// nothing half-made, and with room the same command works.
func TestAFullCache(t *testing.T) {
	reg := watchRegistry(t)
	ref := reg.addr + "/team/app:1"
	push(t, ref, v1.Config{Cmd: []string{"/bin/app"}}, noiseLayer(t, 1, 900_000), noiseLayer(t, 2, 600_000))
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(strings.Repeat(name, 1_000_000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		command []string
		sizes   []string
		fits    string // and with this one the command must work at once
	}{
		"pull":   {[]string{"image", "pull", "--json", ref}, []string{"4k", "16k", "28k", "64k", "1m", "1600k", "2m", "2900k"}, "8m"},
		"import": {[]string{"image", "import", "--json", tree}, []string{"4k", "16k", "24k", "64k", "1m", "1900k", "1980k"}, "8m"},
		"build":  {[]string{"build", "--json", tree}, []string{"16k", "1m"}, "8m"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range append(tt.sizes, tt.fits) {
				t.Run(size, func(t *testing.T) {
					l := newLab(t, "fake", false)
					grow := l.smallCache(t, size)
					r := l.run(tt.command...)
					if size == tt.fits {
						if r.code != 0 {
							t.Errorf("%v", r)
						}
						return
					}
					if code, remedy := errorOf(t, r); r.code != 125 || code != "limit.disk" || remedy == "" {
						t.Errorf("want limit.disk with a remedy: %v", r)
					}
					grow()
					if names := l.imageNames(); len(names) > 0 {
						t.Errorf("images %v are there", names)
					}
					l.must("image", "verify")
					l.nothingLeft()
					l.must(tt.command...)
					l.must("image", "verify")
					l.nothingLeft()
				})
			}
		})
	}
}

// The same of a commit: the machine, its disk and its image stay as they are.
func TestAFullCacheDuringCommit(t *testing.T) {
	l := newLab(t, "fake", false)
	grow := l.smallCache(t, "256m")
	l.must("up", "-d", "--name", "m", "minimal")
	l.must("down", "m")
	before := l.imageNames()
	for _, room := range []int64{0, 8 << 10, 64 << 10} {
		l.leave(room)
		r := l.run("commit", "--json", "m", "new:1")
		if code, remedy := errorOf(t, r); r.code != 125 || code != "limit.disk" || remedy == "" {
			t.Errorf("%d bytes of room: want limit.disk with a remedy: %v", room, r)
		}
		grow()
		if names := l.imageNames(); !slices.Equal(names, before) {
			t.Errorf("images %v, want %v", names, before)
		}
		l.must("image", "verify")
	}
	l.must("commit", "m", "new:1")
	l.must("image", "verify")
	l.must("rm", "m")
	l.nothingLeft()
}

// leave shrinks the lab's small cache until room bytes of it are free.
func (l *lab) leave(room int64) {
	l.t.Helper()
	dir := filepath.Join(l.dir, "cache")
	var fs syscall.Statfs_t
	err := syscall.Statfs(dir, &fs)
	if err == nil {
		used := int64(fs.Blocks-fs.Bfree) * fs.Bsize
		err = syscall.Mount("none", dir, "", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", used+room))
	}
	if err != nil {
		l.t.Fatal(err)
	}
}
