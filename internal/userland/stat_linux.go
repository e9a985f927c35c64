package userland

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func statTimes(st *syscall.Stat_t) (atime, ctime time.Time) {
	return time.Unix(st.Atim.Unix()), time.Unix(st.Ctim.Unix())
}

// utimeOmit and utimeNow are the special values of utimensat(2).
func utimeOmit() unix.Timespec { return unix.Timespec{Nsec: unix.UTIME_OMIT} }
func utimeNow() unix.Timespec  { return unix.Timespec{Nsec: unix.UTIME_NOW} }

func settimeofday(tv *unix.Timeval) error { return unix.Settimeofday(tv) }

func setHostname(name string) error { return unix.Sethostname([]byte(name)) }

const (
	ioctlGetTermios = unix.TCGETS
	ioctlSetTermios = unix.TCSETS
)
