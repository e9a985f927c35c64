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

// kernelThread is PF_KTHREAD.
const kernelThread = 0x00200000

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
	if s != nil && s.Config != nil {
		unmountVolumes(s.Config.Mounts)
	}
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
	if os.Getpid() != 1 {
		return // kill(-1) would end everything of the host's user
	}
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

// processes returns the live user processes besides PID 1 that are ours to end: no zombies and no
// kernel threads, which have the flag PF_KTHREAD (proc_pid_stat(5), fields 3, 4 and 9;
// linux/sched.h). In a container those whose parent is outside (0) are somebody else's: their end
// brings us no SIGCHLD.
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
		if err != nil || pid == 1 {
			continue
		}
		data, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
		if len(f) < 7 || f[0][0] == 'Z' || f[0][0] == 'X' || string(f[1]) == "0" {
			continue
		}
		if flags, err := strconv.ParseUint(string(f[6]), 10, 64); err != nil || flags&kernelThread != 0 {
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

// holdSignals takes all signals away from the Go runtime, whose answer to most is to exit: that
// of PID 1 is a kernel panic, and any root process of the guest can send one. Ignoring them
// would be inherited by every program; a handled signal is not. It returns the channel of
// those that ask for the machine's end.
func holdSignals() <-chan os.Signal {
	ending := make(chan os.Signal, 4)
	signal.Notify(ending, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM, syscall.SIGPWR, syscall.SIGINT)
	var others []os.Signal
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		switch sig {
		case syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM, syscall.SIGPWR, syscall.SIGINT:
		case syscall.SIGCHLD, syscall.SIGURG: // ignored by default; the runtime sends itself SIGURG all the time
		case syscall.SIGKILL, syscall.SIGSTOP: // the kernel keeps them from PID 1
		default:
			others = append(others, sig)
		}
	}
	signal.Notify(make(chan os.Signal, 1), others...) // nobody reads; what does not fit is dropped
	return ending
}

// AwaitSignal returns when PID 1 is told to end the machine, with ok set, or when ctx ends. The
// signals are those of busybox init (SIGUSR1 halt, SIGUSR2 power-off, SIGTERM reboot) with
// SIGPWR, and SIGINT, which the kernel sends for Ctrl-Alt-Del: Firecracker's way to ask for a
// shutdown, and so a power-off here. Those that came since Boot began are not lost.
func (s *System) AwaitSignal(ctx context.Context) (reboot, ok bool) {
	select {
	case <-ctx.Done():
		return false, false
	case sig := <-s.ending:
		return sig == syscall.SIGTERM, true
	}
}
