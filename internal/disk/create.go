package disk

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// CreateFile makes the image file at name, mode 0600, filled by fill. It appears whole and
// on stable storage or not at all: the work goes on in a temporary file beside it, which
// replaces an older file of that name at the end and is removed if anything fails. fill
// must not call Close. A full host file system is an error with
// errors.Is(err, syscall.ENOSPC).
func CreateFile(name string, o Options, fill func(*Writer) error) error {
	return Atomically(name, func(f *os.File) error {
		w, err := NewWriter(f, o)
		if err != nil {
			return err
		}
		if err := fill(w); err != nil {
			return err
		}
		return w.Close()
	})
}

// CreateEmpty makes an image without content, the writable disk of a machine. Nearly all of
// it is a hole: 16 GiB take about 130 KiB of the host's disk.
func CreateEmpty(name string, o Options) error {
	return CreateFile(name, o, func(*Writer) error { return nil })
}

// CreateDrive makes a small image to be read by a guest: root's, directories 0700, files
// with their own modes, times at the Unix epoch. size is as in Options. The image file is
// private (0600) from its first byte.
func CreateDrive(name, label string, size int64, files []File) error {
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return CreateFile(name, Options{Size: size, Label: label}, func(w *Writer) error {
		dirs := map[string]bool{}
		if err := addPrivateDir(w, dirs, "."); err != nil {
			return err
		}
		for _, f := range files {
			if err := addPrivateDir(w, dirs, path.Dir(f.Path)); err != nil {
				return err
			}
			e := Entry{Path: f.Path, Type: TypeFile, Mode: f.Mode, Size: int64(len(f.Data))}
			if err := w.Add(e, bytes.NewReader(f.Data)); err != nil {
				return err
			}
		}
		return nil
	})
}

// addPrivateDir adds a directory and those above it, each once.
func addPrivateDir(w *Writer, done map[string]bool, dir string) error {
	if done[dir] || dir == "/" { // Add refuses absolute paths
		return nil
	}
	done[dir] = true
	if dir != "." {
		if err := addPrivateDir(w, done, path.Dir(dir)); err != nil {
			return err
		}
	}
	return w.Add(Entry{Path: dir, Type: TypeDir, Mode: 0o700}, nil)
}

// Atomically makes the file at name, mode 0600, from what fill writes: temporary file in the
// same directory, fsync, rename, fsync of the directory.
func Atomically(name string, fill func(*os.File) error) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("creating file: %w", err)
	}
	renamed := false
	defer func() {
		if !renamed { // also when fill panics
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(0o600); err != nil { // whatever the umask
		return fmt.Errorf("creating file: %w", err)
	}
	if err := fill(f); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", name, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("closing %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("naming file: %w", err)
	}
	renamed = true
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	return nil
}
