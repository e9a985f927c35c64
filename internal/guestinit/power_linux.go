package guestinit

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// killWait is how long a process has after SIGKILL: only one that hangs in the kernel needs it.
const killWait = time.Second

// PowerOff ends every process and the machine. It does not return. It works on a System whose
// Boot failed, also on nil.
func (s *System) PowerOff(reboot bool) {
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if reboot || s != nil && s.reset {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	endProcesses(agentproto.KillGrace)
	unmountAll()
	for {
		err := unix.Reboot(how)
		// It returns only if we are not PID 1 of a machine. Trying the other way is all that
		// is left; an exit would panic the kernel, which resets the machine by panic=-1.
		if s != nil {
			s.logf("powering off: %v", err)
		}
		if how == unix.LINUX_REBOOT_CMD_RESTART {
			os.Exit(1)
		}
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
}

// endProcesses sends SIGTERM to all, and SIGKILL to those that are left after grace. Init
// itself and the kernel's threads are exempt by kill(2).
func endProcesses(grace time.Duration) {
	left := processes()
	if len(left) == 0 {
		return
	}
	_ = syscall.Kill(-1, syscall.SIGTERM)
	_ = syscall.Kill(-1, syscall.SIGCONT)
	if awaitEnd(grace) {
		return
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
	awaitEnd(killWait)
}

// awaitEnd reports whether all processes ended within d. Whoever ends becomes ours if it was
// not, so that every end brings a SIGCHLD.
func awaitEnd(d time.Duration) bool {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	for {
		if len(processes()) == 0 {
			return true
		}
		select {
		case <-ended:
		case <-timeout.C:
			return len(processes()) == 0
		}
	}
}

// processes returns the live user processes besides PID 1: no zombies and no kernel threads,
// which are children of PID 2 (proc_pid_stat(5), fields 3 and 4).
func processes() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid <= 2 {
			continue
		}
		data, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
		if len(f) < 2 || f[0][0] == 'Z' || f[0][0] == 'X' || string(f[1]) == "2" {
			continue
		}
		pids = append(pids, pid)
	}
	return pids
}

// unmountAll brings the disks to rest. The root cannot be unmounted while we stand on it; it
// and the disk below it become read-only instead.
func unmountAll() {
	unix.Sync()
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	if unix.Mount("", upperDisk, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") != nil {
		// Somebody holds a file open for writing: the kernel's own emergency remount asks nobody.
		_ = os.WriteFile("/proc/sysrq-trigger", []byte("u"), 0)
	}
	unix.Sync()
}

// Signals waits for the signals by which PID 1 is told to end the machine, until ctx ends, and
// calls end once. They are those of busybox init (SIGUSR1 halt, SIGUSR2 power-off, SIGTERM
// reboot) with SIGPWR, and SIGINT, which the kernel sends for Ctrl-Alt-Del: Firecracker's way
// to ask for a shutdown, and so a power-off here.
func Signals(ctx context.Context, end func(reboot bool)) {
	c := make(chan os.Signal, 4)
	signal.Notify(c, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM, syscall.SIGPWR, syscall.SIGINT)
	defer signal.Stop(c)
	select {
	case <-ctx.Done():
	case sig := <-c:
		end(sig == syscall.SIGTERM)
	}
}
