package userland

import (
	"errors"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func systemCommands() []command {
	return []command{
		{name: "env", usage: "[-i] [-u NAME] [-C DIR] [NAME=VALUE]... [COMMAND [ARG]...]", run: runEnv},
		{name: "printenv", usage: "[NAME]...", run: runPrintenv, quick: true},
		{name: "uname", usage: "[-asnrvmpio]", run: runUname, quick: true},
		{name: "id", usage: "[-ugGnr] [USER]", run: runID, quick: true},
		{name: "whoami", usage: "", run: runWhoami, quick: true},
		{name: "timeout", usage: "[-s SIGNAL] [-k SECONDS] SECONDS COMMAND [ARG]...", run: runTimeout},
		{name: "nohup", usage: "COMMAND [ARG]...", run: runNohup},
		{name: "setsid", usage: "[-c] COMMAND [ARG]...", run: runSetsid, own: true},
		{name: "which", usage: "[-as] NAME...", run: runWhich, quick: true},
		{name: "tty", usage: "[-s]", run: runTTY, quick: true},
		{name: "clear", usage: "", run: runClear, quick: true},
		{name: "tput", usage: "[-T TYPE] CAPABILITY [ARG]...", run: runTput, quick: true},
		{name: "nproc", usage: "[-a] [-i N]", run: runNproc, quick: true},
		{name: "hostname", usage: "[-sfdi] [-F FILE] [NAME]", run: runHostname, quick: true},
		{name: "date", usage: "[-uR] [-I[SPEC]] [-d DATE] [-r FILE] [-s DATE] [+FORMAT]", run: runDate, quick: true},
		{name: "sleep", usage: "NUMBER[smhd]...", run: runSleep},
		{name: "kill", usage: "[-SIGNAL | -s SIGNAL] PID... | -l [NUMBER]", run: runKill, quick: true},
	}
}

// runSleep waits for the sum of its arguments.
func runSleep(c *call) int {
	if len(c.args) == 0 {
		return c.usageError("missing operand")
	}
	var total time.Duration
	for _, arg := range c.args {
		d, ok := parseSleep(arg)
		if !ok {
			return c.errorf("invalid time interval '%s'", arg)
		}
		if total > math.MaxInt64-d {
			d, total = math.MaxInt64, 0
		}
		total += d
	}
	if !c.pause(total) {
		return exitInterrupted
	}
	return exitOK
}

// pause waits; it returns false when the context ended first.
func (c *call) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

func parseSleep(s string) (time.Duration, bool) {
	if s == "inf" || s == "infinity" {
		return math.MaxInt64, true
	}
	unit := time.Second
	if s != "" {
		switch s[len(s)-1] {
		case 's':
			s = s[:len(s)-1]
		case 'm':
			s, unit = s[:len(s)-1], time.Minute
		case 'h':
			s, unit = s[:len(s)-1], time.Hour
		case 'd':
			s, unit = s[:len(s)-1], 24*time.Hour
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v < 0 || math.IsNaN(v) {
		return 0, false
	}
	if v *= float64(unit); v >= math.MaxInt64 {
		return math.MaxInt64, true
	}
	return time.Duration(v), true
}

func runUname(c *call) int {
	o, args, ok := c.parse("asnrvmpio", longOptions{
		"all": 'a', "kernel-name": 's', "nodename": 'n', "kernel-release": 'r', "kernel-version": 'v',
		"machine": 'm', "processor": 'p', "hardware-platform": 'i', "operating-system": 'o',
	})
	if !ok {
		return exitFailure
	}
	if len(args) > 0 {
		return c.usageError("extra operand '%s'", args[0])
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return c.errorf("%s", reason(err))
	}
	system := unix.ByteSliceToString(u.Sysname[:])
	if system == "Linux" {
		system = "GNU/Linux"
	}
	values := []struct {
		flag rune
		text string
	}{
		{'s', unix.ByteSliceToString(u.Sysname[:])},
		{'n', unix.ByteSliceToString(u.Nodename[:])},
		{'r', unix.ByteSliceToString(u.Release[:])},
		{'v', unix.ByteSliceToString(u.Version[:])},
		{'m', unix.ByteSliceToString(u.Machine[:])},
		{'p', ""},
		{'i', ""},
		{'o', system},
	}
	if len(o) == 0 {
		o = options{{flag: 's'}}
	}
	var words []string
	for _, v := range values {
		switch {
		case v.text == "" && o.has(v.flag):
			words = append(words, "unknown")
		case v.text != "" && o.has(v.flag, 'a'):
			words = append(words, v.text)
		}
	}
	c.printf("%s\n", strings.Join(words, " "))
	return exitOK
}

func runWhoami(c *call) int {
	c.printf("%s\n", loadUsers().name(uint32(os.Geteuid())))
	return exitOK
}

// identity is what id prints.
type identity struct {
	uid, euid, gid, egid uint32
	groups               []uint32
}

func runID(c *call) int {
	o, args, ok := c.parse("ugGnrz", longOptions{"user": 'u', "group": 'g', "groups": 'G', "name": 'n', "real": 'r'})
	if !ok {
		return exitFailure
	}
	users, groups := loadUsers(), loadGroups()
	var who identity
	if len(args) > 0 {
		a, ok := users.find(args[0])
		if n, err := strconv.ParseUint(args[0], 10, 32); !ok && err == nil {
			for _, u := range users {
				if u.id == uint32(n) {
					a, ok = u, true
				}
			}
		}
		if !ok {
			return c.errorf("'%s': no such user", args[0])
		}
		who = identity{uid: a.id, euid: a.id, gid: a.gid, egid: a.gid, groups: []uint32{a.gid}}
		for _, g := range groups {
			if slices.Contains(g.members, a.name) && g.id != a.gid {
				who.groups = append(who.groups, g.id)
			}
		}
	} else {
		who = identity{uid: uint32(os.Getuid()), euid: uint32(os.Geteuid()), gid: uint32(os.Getgid()), egid: uint32(os.Getegid())}
		who.groups = []uint32{who.egid}
		list, err := os.Getgroups()
		if err != nil {
			return c.errorf("%s", reason(err))
		}
		for _, g := range list {
			if uint32(g) != who.egid {
				who.groups = append(who.groups, uint32(g))
			}
		}
	}
	c.printID(o, who, users, groups)
	return exitOK
}

func (c *call) printID(o options, who identity, users, groups accounts) {
	numeric := !o.has('n')
	switch o.last('u', 'g', 'G') {
	case 'u':
		id := who.euid
		if o.has('r') {
			id = who.uid
		}
		c.printf("%s\n", users.nameOr(id, numeric))
		return
	case 'g':
		id := who.egid
		if o.has('r') {
			id = who.gid
		}
		c.printf("%s\n", groups.nameOr(id, numeric))
		return
	case 'G':
		var words []string
		for _, g := range who.groups {
			words = append(words, groups.nameOr(g, numeric))
		}
		c.printf("%s\n", strings.Join(words, " "))
		return
	}
	text := "uid=" + idName(who.uid, users) + " gid=" + idName(who.gid, groups)
	if who.euid != who.uid {
		text += " euid=" + idName(who.euid, users)
	}
	if who.egid != who.gid {
		text += " egid=" + idName(who.egid, groups)
	}
	var list []string
	for _, g := range who.groups {
		list = append(list, idName(g, groups))
	}
	c.printf("%s groups=%s\n", text, strings.Join(list, ","))
}

// idName is "0(root)", or the number alone when it has no name.
func idName(id uint32, l accounts) string {
	number := strconv.FormatUint(uint64(id), 10)
	if name := l.name(id); name != number {
		return number + "(" + name + ")"
	}
	return number
}

func runKill(c *call) int { return runKillWith(c, nil) }

// runKillWith is kill; special may know targets that are no process ids.
func runKillWith(c *call, special func(string) (func(sig int) error, bool)) int {
	args, sig := c.args, syscall.SIGTERM
	if len(args) == 0 {
		return c.usageError("missing operand")
	}
	switch arg := args[0]; {
	case arg == "-l" || arg == "-L":
		return c.listSignals(args[1:])
	case arg == "--":
		args = args[1:]
	case arg == "-s" || arg == "-n":
		if len(args) < 2 {
			return c.usageError("option requires an argument -- '%s'", arg[1:])
		}
		var ok bool
		if sig, ok = parseSignal(args[1]); !ok {
			return c.errorf("%s: invalid signal", args[1])
		}
		args = args[2:]
	case len(arg) > 1 && arg[0] == '-':
		var ok bool
		if sig, ok = parseSignal(arg[1:]); !ok {
			return c.errorf("%s: invalid signal", arg[1:])
		}
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return c.usageError("missing operand")
	}
	status := exitOK
	for _, arg := range args {
		err := c.killOne(arg, sig, special)
		if err != nil {
			status = c.errorf("(%s) - %s", arg, reason(err))
		}
	}
	return status
}

var errPID = errors.New("not a process id")

func (c *call) killOne(arg string, sig syscall.Signal, special func(string) (func(sig int) error, bool)) error {
	if special != nil {
		if send, ok := special(arg); ok {
			return send(int(sig))
		}
	}
	pid, err := strconv.Atoi(arg)
	if err != nil {
		return errPID
	}
	return syscall.Kill(pid, sig)
}

func (c *call) listSignals(args []string) int {
	if len(args) == 0 {
		var names []string
		for i := 1; i < 32; i++ {
			names = append(names, signalName(syscall.Signal(i)))
		}
		c.printf("%s\n", strings.Join(names, " "))
		return exitOK
	}
	for _, arg := range args {
		n, err := strconv.Atoi(arg)
		if err == nil {
			c.printf("%s\n", signalName(syscall.Signal(n&0x7f)))
			continue
		}
		sig, ok := parseSignal(arg)
		if !ok {
			return c.errorf("%s: invalid signal", arg)
		}
		c.printf("%d\n", sig)
	}
	return exitOK
}
