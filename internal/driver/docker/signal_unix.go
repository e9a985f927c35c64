//go:build unix

package docker

import "syscall"

// maySignal reports whether we may end a process.
func maySignal(pid int) bool { return syscall.Kill(pid, 0) == nil }
