package fake

import (
	"math"
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttr makes the guest a session of its own that ends when this process does.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// fence keeps a guest from inheriting descriptors that this process was itself started with.
// Linux before 5.11 cannot do it; the fake driver isolates nothing anyway.
func fence() { _ = unix.CloseRange(channelFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) }
