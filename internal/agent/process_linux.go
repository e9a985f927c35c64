package agent

import (
	"os"

	"golang.org/x/sys/unix"
)

func pipe2(fds *[2]int) error { return unix.Pipe2(fds[:], unix.O_CLOEXEC) }

// readable returns how many bytes f has ready, 0 when it cannot say.
func readable(f *os.File) (n int) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	// TIOCINQ is FIONREAD, ioctl_tty(2); it works on pipes too, pipe(7).
	_ = rc.Control(func(fd uintptr) {
		if v, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
			n = v
		}
	})
	return n
}
