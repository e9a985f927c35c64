//go:build unix

package userland

import (
	"crypto/rand"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func rmdir(path string) error  { return unix.Rmdir(path) }
func mkfifo(path string) error { return unix.Mkfifo(path, 0o666) }

// setTimes sets a file's times; a zero one stays as it is. now lets the kernel
// set the present time, which needs write permission only.
func setTimes(path string, atime, mtime time.Time, now, noFollow bool) error {
	ts := make([]unix.Timespec, 2)
	for i, t := range []time.Time{atime, mtime} {
		switch {
		case t.IsZero():
			ts[i] = utimeOmit()
		case now:
			ts[i] = utimeNow()
		default:
			var err error
			if ts[i], err = unix.TimeToTimespec(t); err != nil {
				return err
			}
		}
	}
	flags := 0
	if noFollow {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, flags)
}

// randomName makes n letters and digits.
func randomName(n int) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand)
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b)
}

// makeSpecial makes a fifo, socket or device like info.
func makeSpecial(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return syscall.EOPNOTSUPP
	}
	return unix.Mknod(path, uint32(st.Mode), int(st.Rdev))
}

// fileID identifies a file.
type fileID struct{ dev, ino uint64 }

func idOf(info fs.FileInfo) fileID {
	s := statOf(info)
	return fileID{s.dev, s.ino}
}

// syncFile flushes one file to disk.
func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func runSync(c *call) int {
	_, names, ok := c.parse("df", nil)
	if !ok {
		return exitFailure
	}
	if len(names) == 0 {
		unix.Sync()
		return exitOK
	}
	status := exitOK
	for _, name := range names {
		if err := syncFile(c.path(name)); err != nil {
			status = c.fail(name, err)
		}
	}
	return status
}

// setClock sets the system's clock.
func setClock(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return settimeofday(&tv)
}

// accessible is access(2): 1 execute, 2 write, 4 read.
func accessible(path string, mode uint32) bool { return unix.Access(path, mode) == nil }
