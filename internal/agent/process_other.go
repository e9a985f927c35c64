//go:build unix && !linux

package agent

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipe2 has a moment in which a program started elsewhere inherits the ends; the lock that
// os/exec and syscall.ForkExec share closes it.
func pipe2(fds *[2]int) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := unix.Pipe(fds[:]); err != nil {
		return err
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	return nil
}

// readable cannot say; what is there is then read by the quiet rule.
func readable(*os.File) int { return 0 }
