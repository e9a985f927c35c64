package kernel

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

func testStore(t *testing.T, cache, hostRoot string) *Store {
	t.Helper()
	return New(cache, WithHostRoot(hostRoot), WithArch("amd64"), WithTools(filepath.Join(hostRoot, "no-tools")))
}

func mustFind(t *testing.T, s *Store, want string) Kernel {
	t.Helper()
	k, err := s.Find(context.Background(), want)
	if err != nil {
		t.Fatalf("Find(%q): %v", want, err)
	}
	return k
}

func TestDefaultIsTheHostsNewestKernelAndThenTheCachedOne(t *testing.T) {
	cache, root := t.TempDir(), t.TempDir()
	install(t, root, "6.1.0-9-amd64")
	install(t, root, "6.1.0-10-amd64")
	s := testStore(t, cache, root)
	first := mustFind(t, s, "")
	if first.Release != "6.1.0-10-amd64" || !strings.HasSuffix(first.Source, "/boot/vmlinuz-6.1.0-10-amd64") {
		t.Errorf("default is %s from %s", first.Release, first.Source)
	}
	// From now on the host's files are not needed, and a newer one there changes nothing.
	install(t, root, "7.0.0-1-amd64")
	if k := mustFind(t, s, ""); k.ID != first.ID {
		t.Errorf("default changed to %s", k.Release)
	}
	if k := mustFind(t, testStore(t, cache, t.TempDir()), ""); k.ID != first.ID {
		t.Errorf("another process finds %s", k.Release)
	}
}

// A host kernel that needs modules which are not there, or is damaged, is passed over.
func TestUnsuitableHostKernelsArePassedOver(t *testing.T) {
	root := t.TempDir()
	install(t, root, "6.1.0-9-amd64")
	install(t, root, "6.1.0-10-amd64")
	if err := os.RemoveAll(filepath.Join(root, "lib/modules/6.1.0-10-amd64")); err != nil {
		t.Fatal(err)
	}
	writeTree(t, root, map[string][]byte{"boot/vmlinuz-9.9.9": []byte("garbage")})
	if k := mustFind(t, testStore(t, t.TempDir(), root), ""); k.Release != "6.1.0-9-amd64" {
		t.Errorf("default is %s", k.Release)
	}
}

// What somebody once gave with --kernel becomes the default only when nothing else can be had.
func TestAFileIsTheLastResortAsDefault(t *testing.T) {
	cache := t.TempDir()
	image := install(t, t.TempDir(), "9.0.0-mine")
	s := testStore(t, cache, t.TempDir())
	mine := mustFind(t, s, image)
	if k := mustFind(t, s, ""); k.ID != mine.ID {
		t.Errorf("default is %s", k.Release)
	}
	root := t.TempDir()
	install(t, root, "6.1.0-9-amd64")
	if k := mustFind(t, testStore(t, cache, root), ""); k.Release != "6.1.0-9-amd64" {
		t.Errorf("default is %s although the host has one", k.Release)
	}
}

func TestFindByReleaseAndID(t *testing.T) {
	s := testStore(t, t.TempDir(), t.TempDir())
	k := mustFind(t, s, install(t, t.TempDir(), testRelease))
	for _, want := range []string{testRelease, k.ID, k.ID[:4]} {
		if got := mustFind(t, s, want); got.ID != k.ID {
			t.Errorf("Find(%q) is %s", want, got.ID)
		}
	}
	for _, want := range []string{"6.1", k.ID[:3], "ffffffffffffffff", "vmlinuz", "/no/such/file", "./no-such"} {
		_, err := s.Find(context.Background(), want)
		wantCode(t, err, "kernel.missing")
	}
	if k.Config["CONFIG_EXT4_FS"] != "y" || !k.ConfigOn("CONFIG_VIRTIO_BLK") || k.ConfigOn("CONFIG_NOT_HERE") {
		t.Errorf("configuration %v", k.Config)
	}
}

func TestNoKernelAnywhere(t *testing.T) {
	s := testStore(t, t.TempDir(), t.TempDir())
	_, err := s.Find(context.Background(), "")
	wantCode(t, err, "kernel.missing")
	var e *machine.Error
	if errors.As(err, &e) && !strings.Contains(e.Remedy, "--kernel") {
		t.Errorf("remedy %q", e.Remedy)
	}
	if list, err := s.List(context.Background()); err != nil || len(list) != 0 {
		t.Errorf("List: %v, %v", list, err)
	}
}

// The id names contents: the same kernel has the same id from another place, at another time,
// in another cache; another module makes another id.
func TestIDNamesContents(t *testing.T) {
	rootA, rootB := t.TempDir(), t.TempDir()
	a := mustFind(t, testStore(t, t.TempDir(), t.TempDir()), install(t, rootA, testRelease))
	imageB := install(t, rootB, testRelease)
	s := testStore(t, t.TempDir(), t.TempDir())
	if b := mustFind(t, s, imageB); b.ID != a.ID {
		t.Errorf("ids %s and %s", a.ID, b.ID)
	}
	tree := filepath.Join(rootB, "lib/modules", testRelease)
	writeTree(t, tree, map[string][]byte{
		"kernel/fs/overlayfs/overlay.ko.gz": packGzip(append(ko(testRelease), 0)),
	})
	if err := os.Chtimes(tree, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if b := mustFind(t, s, imageB); b.ID == a.ID {
		t.Error("another module did not change the id")
	}
}

func TestAChangedFileIsImportedAgain(t *testing.T) {
	s := testStore(t, t.TempDir(), t.TempDir())
	path := filepath.Join(t.TempDir(), "vmlinux")
	write := func(content []byte) Kernel {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return mustFind(t, s, path)
	}
	one := write(vmlinux(nil))
	two := write(vmlinux(nil, []byte("longer")))
	if one.ID == two.ID || one.BzImage != "" || one.VMLinux == "" {
		t.Errorf("first %+v, second %+v", one, two)
	}
	if list, err := s.List(context.Background()); err != nil || len(list) != 2 {
		t.Errorf("List has %d kernels (%v)", len(list), err)
	}
}

// Find trusts sizes and times and reads nothing; Verify reads everything.
func TestVerifyFindsWhatFindDoesNotLookFor(t *testing.T) {
	s := testStore(t, t.TempDir(), t.TempDir())
	k := mustFind(t, s, install(t, t.TempDir(), testRelease))
	if err := s.Verify(context.Background(), k); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(k.VMLinux)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(k.VMLinux)
	if err != nil {
		t.Fatal(err)
	}
	b[7000] ^= 1
	if err := os.WriteFile(k.VMLinux, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(k.VMLinux, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	mustFind(t, s, k.ID)
	wantCode(t, s.Verify(context.Background(), k), "kernel.corrupt")
	wantCode(t, s.Verify(context.Background(), Kernel{ID: "../../../etc"}), "kernel.missing")
}

func TestDamageThatFindSees(t *testing.T) {
	for name, harm := range map[string]func(k Kernel) error{
		"truncated":      func(k Kernel) error { return os.Truncate(k.VMLinux, 100) },
		"gone":           func(k Kernel) error { return os.Remove(k.BzImage) },
		"module removed": func(k Kernel) error { return os.RemoveAll(filepath.Join(k.Modules, "kernel")) },
		"touched and changed": func(k Kernel) error {
			b, err := os.ReadFile(k.VMLinux)
			if err == nil {
				b[7000] ^= 1
				err = os.WriteFile(k.VMLinux, b, 0o644)
			}
			return errors.Join(err, os.Chtimes(k.VMLinux, time.Now(), time.Now().Add(time.Minute)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t, t.TempDir(), t.TempDir())
			image := install(t, t.TempDir(), testRelease)
			k := mustFind(t, s, image)
			if err := harm(k); err != nil {
				t.Fatal(err)
			}
			_, err := s.Find(context.Background(), k.ID)
			wantCode(t, err, "kernel.corrupt")
			// Its source heals it.
			if again := mustFind(t, s, image); again.ID != k.ID {
				t.Errorf("healed as %s", again.ID)
			}
			mustFind(t, s, k.ID)
			if err := s.Verify(context.Background(), k); err != nil {
				t.Error(err)
			}
		})
	}
}

// A cache that was copied has new times; its contents decide, once.
func TestCopiedCache(t *testing.T) {
	cache := t.TempDir()
	s := testStore(t, cache, t.TempDir())
	k := mustFind(t, s, install(t, t.TempDir(), testRelease))
	later := time.Now().Add(time.Hour)
	err := filepath.WalkDir(filepath.Join(cache, "kernels", k.ID), func(p string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(p, later, later))
	})
	if err != nil {
		t.Fatal(err)
	}
	mustFind(t, s, k.ID)
	m, err := readMeta(filepath.Join(cache, "kernels", k.ID))
	if err != nil {
		t.Fatal(err)
	}
	if m.Files[0].MTimeNS != later.UnixNano() {
		t.Error("the new times were not remembered")
	}
}

func TestConcurrentImports(t *testing.T) {
	cache, image := t.TempDir(), install(t, t.TempDir(), testRelease)
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() {
			// A Store each: they share nothing but the directory, like processes.
			k, err := testStore(t, cache, "/nonexistent").Find(context.Background(), image)
			if err != nil {
				t.Error(err)
			}
			ids[i] = k.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("ids %v", ids)
		}
	}
	if left := leftovers(t, cache); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestRubbishOfAKilledImportIsSweptAndNeverListed(t *testing.T) {
	cache := t.TempDir()
	s := testStore(t, cache, t.TempDir())
	writeTree(t, filepath.Join(cache, "kernels"), map[string][]byte{
		tmpImport + "123/vmlinux": []byte("half"), "0123456789abcdef/vmlinux": []byte("no meta.json"),
	})
	if list, err := s.List(context.Background()); err != nil || len(list) != 0 {
		t.Errorf("List: %v, %v", list, err)
	}
	mustFind(t, s, install(t, t.TempDir(), testRelease))
	if left := leftovers(t, cache); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// Waiting for another process ends with the context.
func TestWaitingForTheLockCanBeCancelled(t *testing.T) {
	cache := t.TempDir()
	unlock, err := testStore(t, cache, "/nonexistent").lock(context.Background(), lockImport)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	image := install(t, t.TempDir(), testRelease)
	go func() {
		_, err := testStore(t, cache, "/nonexistent").Find(ctx, image)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting ended with %v", err)
	}
	unlock()
	mustFind(t, testStore(t, cache, "/nonexistent"), image)
}

func TestHostileMeta(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":           "{",
		"other format":      `{"format":99,"id":"0123456789abcdef","release":"6.1"}`,
		"path in release":   `{"format":1,"id":"0123456789abcdef","release":"../../x"}`,
		"path in image":     `{"format":1,"id":"0123456789abcdef","release":"6.1","image":"../../../etc/passwd"}`,
		"absolute vmlinux":  `{"format":1,"id":"0123456789abcdef","release":"6.1","vmlinux":"/etc/passwd"}`,
		"path in the files": `{"format":1,"id":"0123456789abcdef","release":"6.1","files":[{"path":"../x"}]}`,
		"another's id":      `{"format":1,"id":"fedcba9876543210","release":"6.1"}`,
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			writeTree(t, cache, map[string][]byte{"kernels/0123456789abcdef/meta.json": []byte(text)})
			if list, err := testStore(t, cache, "/nonexistent").List(context.Background()); err != nil || len(list) != 0 {
				t.Errorf("List: %+v, %v", list, err)
			}
		})
	}
}

func TestCompareReleases(t *testing.T) {
	order := []string{"5.10.0-1", "6.1.0-9-amd64", "6.1.0-9-cloud-amd64", "6.1.0-10-amd64", "6.1.10", "6.9.0", "6.10.0", "6.10.0-1"}
	for i := range order {
		for j := range order {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := compareReleases(order[i], order[j]); got != want {
				t.Errorf("compareReleases(%s, %s) = %d", order[i], order[j], got)
			}
		}
	}
}

func BenchmarkFindCached(b *testing.B) {
	cache := os.Getenv("MVM_BENCH_CACHE")
	if cache == "" {
		b.Skip("MVM_BENCH_CACHE names no cache with a real kernel")
	}
	s := New(cache)
	for b.Loop() {
		if _, err := s.Find(context.Background(), ""); err != nil {
			b.Fatal(err)
		}
	}
}
