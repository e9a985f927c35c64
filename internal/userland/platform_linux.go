package userland

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// platformCommands are those that only Linux has.
func platformCommands() []command {
	return []command{
		{name: "ps", usage: "[-ef] [aux] [-o FIELD,...] [-p PID,...]", run: runPS, quick: true},
		{name: "pgrep", usage: "[-flaxnovc] [-P PID] [-u USER] PATTERN", run: runPgrep, quick: true},
		{name: "pkill", usage: "[-SIGNAL] [-fxnov] [-P PID] [-u USER] PATTERN", run: runPgrep, quick: true},
		{name: "pidof", usage: "[-s] NAME...", run: runPidof, quick: true},
		{name: "killall", usage: "[-SIGNAL] NAME...", run: runKillall, quick: true},
		{name: "df", usage: "[-hkmPTai] [-B SIZE] [-t TYPE] [FILE]...", run: runDF},
		{name: "mount", usage: "[-t TYPE] [-o OPTIONS] [-ra] [--bind] [SOURCE] [TARGET]", run: runMount},
		{name: "umount", usage: "[-lfaR] TARGET...", run: runUmount},
		{name: "uptime", usage: "[-ps]", run: runUptime, quick: true},
		{name: "free", usage: "[-bkmght]", run: runFree, quick: true},
		{name: "dmesg", usage: "[-cCr] [-n LEVEL]", run: runDmesg, quick: true},
		{name: "reboot", usage: "[-fn]", run: runReboot, quick: true},
		{name: "poweroff", usage: "[-fn]", run: runReboot, quick: true},
		{name: "halt", usage: "[-fn]", run: runReboot, quick: true},
		{name: "chroot", usage: "ROOT [COMMAND [ARG]...]", run: runChroot, own: true},
		{name: "mknod", usage: "[-m MODE] NAME {b|c|p} [MAJOR MINOR]", run: runMknod, quick: true},
		{name: "stty", usage: "[-F DEVICE] [-a | -g | size | SETTING...]", run: runStty, quick: true},
		{name: "ip", usage: "[-4|-6] [-br] [-o] {address|link|route|neigh} [{show|add|del|set|...} ...]", run: runIP, quick: true, raw: true},
		{name: "ping", usage: "[-46qn] [-c COUNT] [-i SECONDS] [-W SECONDS] [-w SECONDS] [-s SIZE] HOST", run: runPing},
	}
}

func dup2(from, to int) error { return unix.Dup3(from, to, 0) }

// signalThisThread sends a signal that is delivered before the call returns.
func signalThisThread(sig syscall.Signal) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
}

// setProcessName makes ps and pgrep show the command's name, also when the
// process was started through /proc/self/exe. Without /proc nothing happens.
func setProcessName(name string) {
	if f, err := os.OpenFile("/proc/self/comm", os.O_WRONLY, 0); err == nil {
		_, _ = f.WriteString(name) // only for show
		f.Close()
	}
}

// selfPath is a path that starts this binary again, also after its file was
// replaced or unlinked and from inside a chroot that has /proc.
func selfPath() string {
	if _, err := os.Stat("/proc/self/exe"); err == nil {
		return "/proc/self/exe"
	}
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	return path
}
