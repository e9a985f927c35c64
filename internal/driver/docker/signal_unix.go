//go:build unix

package docker

import (
	"os"
	"syscall"
)

// maySignal reports whether we may end a process.
func maySignal(pid int) bool { return syscall.Kill(pid, 0) == nil }

// lockFile takes a file for this process, alone or with others that only read, or fails at once.
func lockFile(f *os.File, shared bool) error {
	how := syscall.LOCK_EX
	if shared {
		how = syscall.LOCK_SH
	}
	return syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB) //nolint:gosec // a file's number is small
}
