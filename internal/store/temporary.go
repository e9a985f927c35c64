//go:build unix

package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// temporary makes the file, mode 0600, that is to replace the one at path. Its name carries our
// pid, so that what a writer left when it was killed can be told from what one is writing.
func temporary(path string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(path), temporaryPrefix(path)+strconv.Itoa(os.Getpid())+"-*")
}

func temporaryPrefix(path string) string { return "." + filepath.Base(path) + "." }

// sweepTemporaries removes what writers of path left that were killed between making their
// temporary file and renaming it. Nothing depends on its success: such files only take space.
func sweepTemporaries(path string) {
	dir := filepath.Dir(path)
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	names, err := d.Readdirnames(-1)
	_ = d.Close()
	if err != nil {
		return
	}
	for _, name := range names {
		rest, ours := strings.CutPrefix(name, temporaryPrefix(path))
		pid, _, dashed := strings.Cut(rest, "-")
		n, err := strconv.Atoi(pid)
		if ours && dashed && err == nil && n > 1 && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			_ = os.Remove(filepath.Join(dir, name))
		}
	}
}

// replaceLocked gives path a new, empty file that is locked before it has its name. The lock of
// the file that it replaces falls free with the caller's Close, whoever takes this one.
func replaceLocked(path string) (*os.File, error) {
	sweepTemporaries(path)
	f, err := temporary(path)
	if err != nil {
		return nil, err
	}
	err = flock(f)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		_ = f.Close()
		return nil, fmt.Errorf("locking a new file: %w", err)
	}
	return f, nil
}
