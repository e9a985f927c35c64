package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestResolvesAsTheKernelDoes: random trees of folders and symlinks lead where the kernel says
// that they lead in a root of their own (openat2's RESOLVE_IN_ROOT).
func TestResolvesAsTheKernelDoes(t *testing.T) {
	found := map[bool]int{}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		top := t.TempDir()
		w, err := NewWriter(&memory{}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		name := func() string {
			parts := make([]string, 1+r.IntN(3))
			for i := range parts {
				parts[i] = string(rune('a' + r.IntN(5)))
			}
			return strings.Join(parts, "/")
		}
		target := func() string {
			parts := make([]string, 1+r.IntN(5))
			for i := range parts {
				parts[i] = []string{"a", "b", "c", "d", "e", "..", "..", ".", ""}[r.IntN(9)]
			}
			to := strings.Join(parts, "/")
			if r.IntN(8) == 0 {
				to += strings.Repeat("/.", 40) // too long for the inode
			}
			if to == "" || r.IntN(3) == 0 {
				to = "/" + to
			}
			return to
		}
		for range 25 {
			e := Entry{Path: name(), Type: TypeDir, Mode: 0o755}
			if real, _, err := w.Resolve(e.Path); err != nil || real != e.Path {
				continue // what is below a symlink is not made by a plain mkdir
			}
			if _, err := os.Lstat(filepath.Join(top, e.Path)); err == nil {
				continue
			}
			host := os.MkdirAll(filepath.Join(top, path.Dir(e.Path)), 0o700)
			switch r.IntN(5) {
			case 0, 1:
				host = errors.Join(host, os.MkdirAll(filepath.Join(top, e.Path), 0o700))
			case 2:
				e.Type = TypeFile
				host = errors.Join(host, os.WriteFile(filepath.Join(top, e.Path), nil, 0o600))
			default:
				e.Type, e.Target = TypeSymlink, target()
				host = errors.Join(host, os.Symlink(e.Target, filepath.Join(top, e.Path)))
			}
			if err := errors.Join(host, w.Add(e, nil)); err != nil {
				t.Fatal(err)
			}
		}
		root, err := unix.Open(top, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			p := name()
			want, kernel := inRoot(root, top, p)
			if errors.Is(kernel, unix.ENOSYS) {
				t.Skip("needs openat2 (Linux 5.6)")
			}
			got, _, err := w.Resolve(p + "/x")
			switch {
			case kernel == nil:
				if got != strings.TrimPrefix(want+"/x", "/") || err != nil {
					t.Fatalf("seed %d: %s/x leads to %q (%v), for the kernel to %q", seed, p, got, err, want)
				}
			case err == nil:
				// Folders that are still to be made are the only thing that the kernel misses.
				if _, there := inRoot(root, top, path.Dir(got)); !errors.Is(kernel, unix.ENOENT) || !errors.Is(there, unix.ENOENT) {
					t.Fatalf("seed %d: %s/x leads to %q, for the kernel: %v", seed, p, got, kernel)
				}
			case !errors.Is(err, ErrNotDirectory):
				t.Fatal(err)
			}
			found[kernel == nil]++
		}
		_ = unix.Close(root)
	}
	if found[true] < 1000 || found[false] < 1000 {
		t.Errorf("too few paths of a kind: %v", found)
	}
}

// inRoot asks the kernel where a folder is in a tree; "" is the top.
func inRoot(root int, top, dir string) (string, error) {
	fd, err := unix.Openat2(root, dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return strings.TrimPrefix(strings.TrimPrefix(at, top), "/"), err
}
