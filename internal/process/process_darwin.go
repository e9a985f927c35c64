package process

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// szomb is the process state SZOMB of macOS's sys/proc.h.
const szomb = 5

// Identify returns the identity of the process that has this pid now. A zombie counts as gone.
func Identify(pid int) (machine.Process, error) {
	boot, err := BootID()
	if err != nil {
		return machine.Process{}, err
	}
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || info.Proc.P_stat == szomb {
		return machine.Process{}, ErrGone
	}
	started := info.Proc.P_starttime
	return machine.Process{Pid: pid, Start: uint64(started.Sec)*1e6 + uint64(started.Usec), BootID: boot}, nil
}

// BootID returns what the kernel makes anew at each boot. kern.boottime would not do: it moves
// when the clock is set.
func BootID() (string, error) {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return "", fmt.Errorf("reading kern.bootsessionuuid: %w", err)
	}
	return id, nil
}

// Kill ends exactly this process with SIGKILL and waits until it is gone or ctx ends. macOS has
// no pidfd: the identity is compared immediately before the signal.
func Kill(ctx context.Context, p machine.Process) error {
	if p.Pid <= 1 || !Running(p) {
		return ErrGone
	}
	if err := syscall.Kill(p.Pid, syscall.SIGKILL); err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return ErrGone
		}
		return fmt.Errorf("killing process %d: %w", p.Pid, err)
	}
	for Running(p) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for process %d to end: %w", p.Pid, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// PSS is not to be had on macOS.
func PSS(int) (int64, error) { return 0, errors.ErrUnsupported }
