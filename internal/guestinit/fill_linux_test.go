package guestinit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o640); err != nil {
		t.Fatal(err)
	}
}

// folderOf makes a folder as an image has it, with one small and one large file.
func folderOf(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), []byte("first"))
	write(t, filepath.Join(dir, "b"), bytes.Repeat([]byte("x"), 1<<20))
	write(t, filepath.Join(dir, fillingFile), []byte("the image's"))
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wantFull(t *testing.T, volume, from string) {
	t.Helper()
	for _, name := range []string{"a", "b"} {
		got, err := os.ReadFile(filepath.Join(volume, name))
		want, werr := os.ReadFile(filepath.Join(from, name))
		if err != nil || werr != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes, %v", name, len(got), err)
		}
	}
	entries, err := os.ReadDir(volume)
	if err != nil || len(entries) != 2 {
		t.Errorf("the volume has %v, %v", entries, err)
	}
	info, err := os.Stat(volume)
	if err != nil {
		t.Fatal(err)
	}
	if image, err := os.Stat(from); err != nil || info.Mode() != image.Mode() || !info.ModTime().Equal(image.ModTime()) {
		t.Errorf("the folder is %v of %v, the image's %v, %v", info.Mode(), info.ModTime(), image, err)
	}
}

// A volume that a guest was filling when it was killed is filled anew, and one that a program
// has seen never is.
func TestFillAfterAKill(t *testing.T) {
	t.Parallel()
	volume, from := t.TempDir(), folderOf(t)
	write(t, filepath.Join(volume, fillingFile), nil)
	write(t, filepath.Join(volume, "a"), []byte("fir"))
	write(t, filepath.Join(volume, "of another image"), nil)
	if !isFilling(volume) {
		t.Error("the mark is not seen")
	}
	if err := fillVolume(volume, from); err != nil {
		t.Fatal(err)
	}
	wantFull(t, volume, from)
	write(t, filepath.Join(volume, "a"), []byte("written"))
	if err := os.Remove(filepath.Join(volume, "b")); err != nil {
		t.Fatal(err)
	}
	if err := fillVolume(volume, from); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(volume, "a")); string(got) != "written" || err != nil {
		t.Errorf("a program's file: %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(volume, "b")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a program deleted came back: %v", err)
	}
}

// The half of another image is not kept for one that has nothing there.
func TestFillWithNothing(t *testing.T) {
	t.Parallel()
	volume := t.TempDir()
	write(t, filepath.Join(volume, fillingFile), nil)
	write(t, filepath.Join(volume, "a"), []byte("fir"))
	if err := fillVolume(volume, filepath.Join(volume, "none")); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(volume); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A volume without room for what the image has is no full one at the next start.
func TestFillWithoutRoom(t *testing.T) {
	t.Parallel()
	volume, from := t.TempDir(), folderOf(t)
	if err := unix.Mount("tmpfs", volume, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(volume, unix.MNT_DETACH) })
	for range 2 {
		if err := fillVolume(volume, from); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("filled without room: %v", err)
		}
		if _, err := os.Stat(filepath.Join(volume, "a")); err != nil {
			t.Errorf("the test is about one that is filled in part: %v", err)
		}
	}
	if err := unix.Mount("", volume, "", unix.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	if err := fillVolume(volume, from); err != nil {
		t.Fatal(err)
	}
	wantFull(t, volume, from)
}
