package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Identify returns the identity of the process that has this pid now. A zombie counts as gone.
func Identify(pid int) (machine.Process, error) {
	boot, err := BootID()
	if err != nil {
		return machine.Process{}, err
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return machine.Process{}, ErrGone
	}
	// The command name, field 2, may contain spaces and parentheses: count from its end.
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return machine.Process{}, fmt.Errorf("reading /proc/%d/stat: no command name", pid)
	}
	fields := strings.Fields(string(data[i+1:])) // fields[0] is field 3
	if len(fields) < 20 {
		return machine.Process{}, fmt.Errorf("reading /proc/%d/stat: %d fields", pid, len(fields))
	}
	if state := fields[0]; state == "Z" || state == "X" {
		return machine.Process{}, ErrGone
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return machine.Process{}, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
	}
	return machine.Process{Pid: pid, Start: start, BootID: boot}, nil
}

// BootID returns the id of the host's current boot.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// Kill ends exactly this process with SIGKILL and waits until it is gone or ctx ends. It
// returns ErrGone when it was gone before.
func Kill(ctx context.Context, p machine.Process) error {
	if p.Pid <= 1 {
		return ErrGone
	}
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	if err != nil {
		return fmt.Errorf("opening process %d: %w", p.Pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	// The pidfd now stands for one process; look whether it is the one that was meant.
	if !Running(p) {
		return ErrGone
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return ErrGone
		}
		return fmt.Errorf("killing process %d: %w", p.Pid, err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("waiting for process %d to end: %w", p.Pid, err)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return nil
		}
	}
}

// PSS returns the proportional set size of a process in bytes (proc(5), smaps_rollup).
func PSS(pid int) (int64, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if rest, ok := strings.CutPrefix(sc.Text(), "Pss:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("reading smaps_rollup of %d: no Pss line", pid)
}
