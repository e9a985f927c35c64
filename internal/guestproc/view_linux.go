package guestproc

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// rootView sees a folder as a chroot there would: absolute links and .. stay inside.
type rootView struct{ root string }

func (v rootView) own() bool { return v.root == "" || v.root == "/" }

func (v rootView) open(name string, flags int) (int, error) {
	if v.own() {
		return ignoringEINTR(func() (int, error) { return unix.Open(name, flags|unix.O_CLOEXEC, 0) })
	}
	dir, err := unix.Open(v.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(dir) }()
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	return ignoringEINTR(func() (int, error) {
		for range 8 { // EAGAIN: a rename somewhere raced with the walk, openat2(2)
			fd, err := unix.Openat2(dir, name, &how)
			if err != unix.EAGAIN {
				return fd, err
			}
		}
		return -1, unix.EAGAIN
	})
}

func ignoringEINTR(fn func() (int, error)) (int, error) {
	for {
		n, err := fn()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// stat follows links. Its error is an *os.PathError.
func (v rootView) stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if v.own() {
		if err := unix.Stat(name, &st); err != nil {
			return st, &os.PathError{Op: "stat", Path: name, Err: err}
		}
		return st, nil
	}
	fd, err := v.open(name, unix.O_PATH)
	if err != nil {
		return st, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Fstat(fd, &st); err != nil {
		return st, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return st, nil
}

func (v rootView) isDir(name string) bool {
	st, err := v.stat(name)
	return err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFDIR
}

// openRegular opens a regular file for reading; O_NONBLOCK so that a FIFO cannot hold us.
func (v rootView) openRegular(name string) (*os.File, error) {
	fd, err := v.open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
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
