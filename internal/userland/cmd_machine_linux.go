package userland

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func runUptime(c *call) int {
	o, _, ok := c.parse("ps", longOptions{"pretty": 'p', "since": 's'})
	if !ok {
		return exitFailure
	}
	up, now := uptime(), time.Now()
	minutes := int(up.Minutes())
	days, hours, mins := minutes/1440, minutes/60%24, minutes%60
	switch o.last('p', 's') {
	case 's':
		c.printf("%s\n", now.Add(-up).Format("2006-01-02 15:04:05"))
		return exitOK
	case 'p':
		var parts []string
		for _, p := range []struct {
			n    int
			unit string
		}{{days, "day"}, {hours, "hour"}, {mins, "minute"}} {
			switch {
			case p.n == 1:
				parts = append(parts, "1 "+p.unit)
			case p.n > 1:
				parts = append(parts, fmt.Sprintf("%d %ss", p.n, p.unit))
			}
		}
		c.printf("up %s\n", strings.Join(parts, ", "))
		return exitOK
	}
	text := fmt.Sprintf("%d min", mins)
	if hours > 0 || days > 0 {
		text = fmt.Sprintf("%2d:%02d", hours, mins)
	}
	switch {
	case days == 1:
		text = "1 day, " + text
	case days > 1:
		text = fmt.Sprintf("%d days, ", days) + text
	}
	load := "0.00, 0.00, 0.00"
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(data)); len(f) >= 3 {
			load = strings.Join(f[:3], ", ")
		}
	}
	c.printf(" %s up %s,  load average: %s\n", now.Format("15:04:05"), text, load)
	return exitOK
}

func runFree(c *call) int {
	o, _, ok := c.parse("bkmghtw", longOptions{"bytes": 'b', "kibi": 'k', "mebi": 'm', "gibi": 'g', "human": 'h', "total": 't'})
	if !ok {
		return exitFailure
	}
	m := memInfo()
	if len(m) == 0 {
		return c.errorf("/proc/meminfo: cannot be read")
	}
	show := func(kib int64) string {
		switch o.last('b', 'k', 'm', 'g', 'h') {
		case 'b':
			return strconv.FormatInt(kib<<10, 10)
		case 'm':
			return strconv.FormatInt(kib>>10, 10)
		case 'g':
			return strconv.FormatInt(kib>>20, 10)
		case 'h':
			text := humanSize(kib << 10)
			if strings.Trim(text, "0123456789.") == "" {
				return text + "B"
			}
			return text + "i"
		}
		return strconv.FormatInt(kib, 10)
	}
	cache := m["Buffers"] + m["Cached"] + m["SReclaimable"]
	used := max(0, m["MemTotal"]-m["MemFree"]-cache)
	if avail, ok := m["MemAvailable"]; ok {
		used = m["MemTotal"] - avail
	}
	c.printf("%-7s %11s %11s %11s %11s %11s %11s\n", "", "total", "used", "free", "shared", "buff/cache", "available")
	c.printf("%-7s %11s %11s %11s %11s %11s %11s\n", "Mem:", show(m["MemTotal"]), show(used), show(m["MemFree"]), show(m["Shmem"]), show(cache), show(m["MemAvailable"]))
	c.printf("%-7s %11s %11s %11s\n", "Swap:", show(m["SwapTotal"]), show(m["SwapTotal"]-m["SwapFree"]), show(m["SwapFree"]))
	if o.has('t') {
		c.printf("%-7s %11s %11s %11s\n", "Total:", show(m["MemTotal"]+m["SwapTotal"]), show(used+m["SwapTotal"]-m["SwapFree"]), show(m["MemFree"]+m["SwapFree"]))
	}
	return exitOK
}

// Actions of syslog(2), from linux/syslog.h.
const (
	syslogReadAll    = 3
	syslogReadClear  = 4
	syslogClear      = 5
	syslogConsole    = 8
	syslogBufferSize = 10
)

func runDmesg(c *call) int {
	o, _, ok := c.parse("cCn:rs:T", longOptions{"read-clear": 'c', "clear": 'C', "console-level": 'n', "raw": 'r'})
	if !ok {
		return exitFailure
	}
	if text, ok := o.get('n'); ok {
		if err := syslogSet(syslogConsole, atoi(text)); err != nil {
			return c.errorf("klogctl: %s", reason(err))
		}
		return exitOK
	}
	if o.has('C') {
		if err := syslogSet(syslogClear, 0); err != nil {
			return c.errorf("klogctl: %s", reason(err))
		}
		return exitOK
	}
	size, err := unix.Klogctl(syslogBufferSize, nil)
	if err != nil || size <= 0 || size > 64<<20 {
		size = 1 << 20
	}
	action := syslogReadAll
	if o.has('c') {
		action = syslogReadClear
	}
	buf := make([]byte, size)
	n, err := unix.Klogctl(action, buf)
	if err != nil {
		return c.errorf("klogctl: %s", reason(err))
	}
	c.out.buffered()
	for line := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\n"), "\n") {
		if !o.has('r') && strings.HasPrefix(line, "<") {
			if i := strings.IndexByte(line, '>'); i > 0 && i <= 4 {
				line = line[i+1:]
			}
		}
		c.out.WriteString(line + "\n")
	}
	return exitOK
}

// syslogSet does the actions of syslog(2) that take a number instead of a buffer.
func syslogSet(action, value int) error {
	_, _, errno := unix.Syscall(unix.SYS_SYSLOG, uintptr(action), 0, uintptr(value))
	if errno != 0 {
		return errno
	}
	return nil
}

// runReboot is reboot, poweroff and halt. They ask process 1, with the signals
// that busybox's init has: poweroff SIGUSR2, reboot SIGTERM, halt SIGUSR1. With
// -f the kernel is told at once.
func runReboot(c *call) int {
	o, _, ok := c.parse("fnd:wp", longOptions{"force": 'f'})
	if !ok {
		return exitFailure
	}
	sig, command := shutdownPlan(c.cmd.name)
	var err error
	if o.has('f') {
		if !o.has('n') {
			unix.Sync()
		}
		err = unix.Reboot(command)
	} else {
		err = syscall.Kill(1, sig)
	}
	if err != nil {
		return c.errorf("%s", reason(err))
	}
	return exitOK
}

// shutdownPlan gives the signal to process 1 and the reboot(2) command.
func shutdownPlan(name string) (sig syscall.Signal, command int) {
	switch name {
	case "poweroff":
		return syscall.SIGUSR2, unix.LINUX_REBOOT_CMD_POWER_OFF
	case "halt":
		return syscall.SIGUSR1, unix.LINUX_REBOOT_CMD_HALT
	}
	return syscall.SIGTERM, unix.LINUX_REBOOT_CMD_RESTART
}

func runChroot(c *call) int {
	c.trouble = 125
	_, args, ok := c.parse("+", nil)
	if !ok {
		return c.trouble
	}
	if len(args) == 0 {
		return c.usageError("missing operand")
	}
	if len(args) == 1 {
		args = append(args, "/bin/sh", "-i")
	}
	if c.self == "" {
		c.errorf("a new root needs a process of its own")
		return c.trouble
	}
	if err := unix.Chroot(c.path(args[0])); err != nil {
		c.errorf("cannot change root directory to '%s': %s", args[0], reason(err))
		return c.trouble
	}
	if err := unix.Chdir("/"); err != nil {
		c.errorf("/: %s", reason(err))
		return c.trouble
	}
	p := c.process()
	p.dir = "/"
	c.dir = "/"
	// Our binary may not exist in there, so this process itself is what runs a
	// command of this package.
	return c.runChild(c.ctx, args[1:], p, start{})
}

func runMknod(c *call) int {
	o, args, ok := c.parse("m:", longOptions{"mode": 'm'})
	if !ok {
		return exitFailure
	}
	if len(args) < 2 {
		return c.usageError("missing operand")
	}
	mode := uint32(0o666)
	explicit := false
	if text, ok := o.get('m'); ok {
		m, err := parseMode(text)
		if err != nil {
			return c.errorf("%s: %s", text, err)
		}
		mode, explicit = m.apply(0o666, false, 0), true
	}
	kind := map[string]uint32{"b": unix.S_IFBLK, "c": unix.S_IFCHR, "u": unix.S_IFCHR, "p": unix.S_IFIFO}[args[1]]
	dev := uint64(0)
	switch {
	case kind == 0:
		return c.usageError("invalid device type '%s'", args[1])
	case kind != unix.S_IFIFO:
		if len(args) != 4 {
			return c.usageError("a major and a minor number are needed")
		}
		maj, err1 := strconv.ParseUint(args[2], 0, 20)
		min, err2 := strconv.ParseUint(args[3], 0, 20)
		if err1 != nil || err2 != nil {
			return c.errorf("invalid device number")
		}
		dev = unix.Mkdev(uint32(maj), uint32(min))
	}
	path := c.path(args[0])
	err := unix.Mknod(path, kind|mode, int(dev))
	if err == nil && explicit {
		err = os.Chmod(path, goMode(mode))
	}
	if err != nil {
		return c.fail(args[0], err)
	}
	return exitOK
}
