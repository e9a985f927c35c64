package vmm

import (
	"math"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// outlives says that a child goes on when its parent is killed.
const outlives = false

// childAttr makes a VMM a session of its own, out of reach of a terminal's signals, that the
// kernel kills when the thread that started it ends; see Command.Start.
//
// The kernel forgets the latter when a process changes its user id (prctl(2)), as jailers do. A
// program that does so runs below the child, in a process id namespace of which the child is the
// init process: with that ends everything in it (pid_namespaces(7)).
func childAttr(namespaces bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if namespaces {
		attr.Cloneflags = syscall.CLONE_NEWPID
		attr.Unshareflags = syscall.CLONE_NEWNS // its mounts end with it, and nobody else sees them
	}
	return attr
}

// fence keeps a VMM from inheriting descriptors that this process was itself started with, such
// as a lock of the caller's shell: Go opens nothing that children inherit, but it cannot know
// of those. What a child is meant to have, os/exec passes on all the same.
func fence() {
	if unix.CloseRange(FirstFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Linux before 5.11.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= FirstFD {
			unix.CloseOnExec(fd)
		}
	}
}
