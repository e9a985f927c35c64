package guestinit

import (
	"errors"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// lateConsole is a console that the kernel did not have when it started us: a virtio one whose driver
// is a module, on machines without a serial port (Apple's framework). The kernel then starts PID 1
// without standard descriptors, for which Go opens the null device.
type lateConsole struct{ found atomic.Bool }

// adopt makes the console our standard descriptors once there is one. It may be called again and
// again, costs next to nothing, and reports whether what we print is seen.
func (c *lateConsole) adopt() bool {
	if c.found.Load() {
		return true
	}
	if !isNull(2) {
		c.found.Store(true)
		return true
	}
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false // ENODEV: not yet
	}
	defer func() { _ = unix.Close(fd) }()
	if err := errors.Join(unix.Dup3(fd, 0, 0), unix.Dup3(fd, 1, 0), unix.Dup3(fd, 2, 0)); err != nil {
		return false
	}
	c.found.Store(true)
	return true
}

func isNull(fd int) bool {
	var st, null unix.Stat_t
	return unix.Fstat(fd, &st) == nil && unix.Stat(os.DevNull, &null) == nil &&
		st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == null.Rdev
}
