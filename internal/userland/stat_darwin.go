package userland

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func statTimes(st *syscall.Stat_t) (atime, ctime time.Time) {
	return time.Unix(st.Atimespec.Unix()), time.Unix(st.Ctimespec.Unix())
}

// utimeOmit and utimeNow are the special values of utimensat(2), from Darwin's
// sys/stat.h.
func utimeOmit() unix.Timespec { return unix.Timespec{Nsec: -2} }
func utimeNow() unix.Timespec  { return unix.Timespec{Nsec: -1} }

// A Mac's clock is not this package's business.
func settimeofday(*unix.Timeval) error { return unix.EPERM }

func setHostname(string) error { return unix.EPERM }

const (
	ioctlGetTermios = unix.TIOCGETA
	ioctlSetTermios = unix.TIOCSETA
)
