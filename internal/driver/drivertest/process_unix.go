//go:build unix

package drivertest

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// become makes a command run as another user without further groups.
func become(cmd *exec.Cmd, id uint32) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
}

// inheritable duplicates a descriptor in a way that children inherit, and returns how to close it.
func inheritable(f *os.File) (func(), error) {
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	return func() { _ = unix.Close(fd) }, nil
}
