package userland

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// runPgrep is pgrep and pkill.
func runPgrep(c *call) int {
	c.trouble = exitUsage
	sig := syscall.SIGTERM
	if c.cmd.name == "pkill" {
		for i, arg := range c.args { // "-9", "-HUP": not an option of ours
			if len(arg) > 1 && arg[0] == '-' {
				if s, ok := parseSignal(arg[1:]); ok && (len(arg) > 2 || arg[1] <= '9') {
					sig = s
					c.args = append(append([]string{}, c.args[:i]...), c.args[i+1:]...)
					break
				}
			}
		}
	}
	o, args, ok := c.parse("flxnovcaP:u:s:d:", longOptions{"full": 'f', "list-name": 'l', "list-full": 'a', "exact": 'x', "newest": 'n', "oldest": 'o', "inverse": 'v', "count": 'c', "parent": 'P'})
	if !ok {
		return exitUsage
	}
	pattern := ""
	if len(args) > 0 {
		pattern = args[0]
	} else if !o.has('P', 'u') {
		return c.usageError("no matching criteria specified")
	}
	if o.has('x') {
		pattern = "^(" + pattern + ")$"
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		c.errorf("%s", regexpError(err))
		return exitUsage
	}
	found, err := c.findProcesses(o, re)
	if err != nil {
		return c.errorf("%s", reason(err))
	}
	if len(found) == 0 {
		return exitFailure
	}
	if c.cmd.name == "pgrep" {
		c.printProcesses(o, found)
		return exitOK
	}
	status := exitOK
	for _, p := range found {
		if err := syscall.Kill(p.pid, sig); err != nil {
			status = c.errorf("killing pid %d failed: %s", p.pid, reason(err))
		}
	}
	return status
}

func (c *call) findProcesses(o options, re *regexp.Regexp) ([]procInfo, error) {
	pids, err := processIDs()
	if err != nil {
		return nil, err
	}
	parent, hasParent := o.get('P')
	user, hasUser := o.get('u')
	uid, _, _ := parseOwner(user)
	var found []procInfo
	for _, pid := range pids {
		p, err := readProc(pid)
		if err != nil || pid == os.Getpid() || (hasParent && strconv.Itoa(p.ppid) != parent) || (hasUser && int(p.uid) != uid) {
			continue
		}
		text := p.comm
		if o.has('f') {
			text = p.args
		}
		if re.MatchString(text) != o.has('v') {
			found = append(found, p)
		}
	}
	if len(found) > 0 && o.has('n', 'o') {
		pick := found[0]
		for _, p := range found[1:] {
			if (p.started >= pick.started) == o.has('n') {
				pick = p
			}
		}
		found = []procInfo{pick}
	}
	return found, nil
}

func (c *call) printProcesses(o options, found []procInfo) {
	if o.has('c') {
		c.printf("%d\n", len(found))
		return
	}
	for _, p := range found {
		switch {
		case o.has('a'):
			c.printf("%d %s\n", p.pid, p.args)
		case o.has('l'):
			c.printf("%d %s\n", p.pid, p.comm)
		default:
			c.printf("%d\n", p.pid)
		}
	}
}

// runPidof is pidof; runKillall sends a signal to every process of a name.
func runPidof(c *call) int {
	o, names, ok := c.parse("so:", nil)
	if !ok {
		return exitFailure
	}
	var list []string
	for _, p := range processesNamed(names) {
		list = append([]string{strconv.Itoa(p)}, list...)
	}
	if len(list) == 0 {
		return exitFailure
	}
	if o.has('s') {
		list = list[:1]
	}
	c.printf("%s\n", strings.Join(list, " "))
	return exitOK
}

func runKillall(c *call) int {
	args, sig := c.args, syscall.SIGTERM
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		text := args[0][1:]
		if text == "s" && len(args) > 1 {
			text, args = args[1], args[1:]
		}
		args = args[1:]
		if text == "q" {
			continue
		}
		var ok bool
		if sig, ok = parseSignal(text); !ok {
			return c.errorf("%s: invalid signal", text)
		}
	}
	if len(args) == 0 {
		return c.usageError("missing operand")
	}
	status := exitOK
	for _, name := range args {
		pids := processesNamed([]string{name})
		if len(pids) == 0 {
			status = c.errorf("%s: no process found", name)
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, sig); err != nil {
				status = c.errorf("%s(%d): %s", name, pid, reason(err))
			}
		}
	}
	return status
}

// processesNamed finds processes by the name of their program.
func processesNamed(names []string) []int {
	pids, err := processIDs()
	if err != nil {
		return nil
	}
	var found []int
	for _, pid := range pids {
		p, err := readProc(pid)
		if err != nil || pid == os.Getpid() {
			continue
		}
		arg0, _, _ := strings.Cut(p.args, " ")
		for _, name := range names {
			if p.comm == name || filepath.Base(arg0) == name {
				found = append(found, pid)
				break
			}
		}
	}
	return found
}
