package main

import "golang.org/x/sys/unix"

// dieWithParent ends this process when the one that started it ends, however that ends, and
// makes it the parent of what its own children leave behind.
func dieWithParent() {
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}
