package vmm

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// outlives says that a child goes on when its parent is killed.
const outlives = true

// childAttr makes a VMM a session of its own. macOS has no parent-death signal: what a killed
// supervisor leaves behind, the next command ends by its recorded identity (Command.Began). Nor has it namespaces.
func childAttr(bool) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// fence keeps a VMM from inheriting descriptors that this process was itself started with.
func fence() {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= FirstFD {
			unix.CloseOnExec(fd)
		}
	}
}
