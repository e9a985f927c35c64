//go:build unix && !linux

package guestproc

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// rootView sees a folder as its root. Without openat2(2) it does not confine links: on these
// systems the agent runs as a plain process for tests and demonstrations, with the rights of
// its user and no guest to confine.
type rootView struct{ root string }

func (v rootView) own() bool { return v.root == "" || v.root == "/" }

func (v rootView) at(name string) string {
	if v.own() {
		return name
	}
	return filepath.Join(v.root, name)
}

// stat follows links. Its error is an *os.PathError.
func (v rootView) stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Stat(v.at(name), &st); err != nil {
		return st, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return st, nil
}

func (v rootView) isDir(name string) bool {
	st, err := v.stat(name)
	return err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFDIR
}

func (v rootView) openRegular(name string) (*os.File, error) {
	fd, err := unix.Open(v.at(name), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	return os.NewFile(uintptr(fd), name), nil
}
