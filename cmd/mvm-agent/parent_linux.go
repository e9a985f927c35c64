package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// dieWithParent ends this process when the one that started it ends, however that ends, and
// makes it the parent of what its own children leave behind.
func dieWithParent() {
	parent := os.Getppid()
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	if os.Getppid() != parent {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL) // it ended just before the kernel was told
	}
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}
