package userland

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// procInfo is one process as /proc shows it (proc(5)).
type procInfo struct {
	pid, ppid, pgrp, session int
	uid                      uint32
	state                    string
	comm, args               string
	tty                      int
	cpu                      time.Duration
	started                  time.Duration // after boot
	vsz, rss                 int64         // KiB
	nice, threads            int
}

// clockTicks is USER_HZ, which is 100 on every architecture that Go has.
const clockTicks = 100

func processIDs() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

func readProc(pid int) (procInfo, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	data, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return procInfo{}, err
	}
	p, err := parseProcStat(string(data))
	if err != nil {
		return procInfo{}, err
	}
	if st, err := os.Stat(dir); err == nil {
		p.uid = statOf(st).uid
	}
	if cmdline, err := os.ReadFile(dir + "/cmdline"); err == nil && len(cmdline) > 0 {
		p.args = escapeControl(strings.TrimRight(strings.ReplaceAll(string(cmdline), "\x00", " "), " "))
	} else {
		p.args = "[" + p.comm + "]"
	}
	return p, nil
}

// parseProcStat reads /proc/PID/stat. The name stands in parentheses and may
// itself contain parentheses and spaces.
func parseProcStat(s string) (procInfo, error) {
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return procInfo{}, fmt.Errorf("no name in stat")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(s[:open]))
	f := strings.Fields(s[end+1:])
	if err != nil || len(f) < 22 {
		return procInfo{}, fmt.Errorf("short stat")
	}
	num := func(i int) int64 {
		v, _ := strconv.ParseInt(f[i-3], 10, 64) // i as in proc(5), where the state is field 3
		return v
	}
	ticks := func(n int64) time.Duration { return time.Duration(n) * (time.Second / clockTicks) }
	return procInfo{
		pid: pid, comm: escapeControl(s[open+1 : end]), state: f[0],
		ppid: int(num(4)), pgrp: int(num(5)), session: int(num(6)), tty: int(num(7)),
		cpu: ticks(num(14) + num(15)), nice: int(num(19)), threads: int(num(20)), started: ticks(num(22)),
		vsz: num(23) / 1024, rss: num(24) * int64(os.Getpagesize()) / 1024,
	}, nil
}

// psColumn is one column of ps's output.
type psColumn struct {
	field, title string
	width        int // negative: left-aligned
}

func psColumns(names string) ([]psColumn, error) {
	var cols []psColumn
	for name := range strings.SplitSeq(names, ",") {
		name, title, custom := strings.Cut(name, "=")
		col, ok := psColumnNamed(name)
		if !ok {
			return nil, fmt.Errorf("unknown field '%s'", name)
		}
		if custom {
			col.title = title
		}
		cols = append(cols, col)
	}
	return cols, nil
}

func psColumnNamed(name string) (psColumn, bool) {
	switch name {
	case "pid", "ppid", "pgid", "sid", "tid":
		return psColumn{name, strings.ToUpper(name), 5}, true
	case "user", "euser", "uname", "ruser":
		return psColumn{"user", "USER", -8}, true
	case "uid", "euid":
		return psColumn{"uid", "UID", 5}, true
	case "stat", "state", "s":
		return psColumn{"stat", "STAT", -4}, true
	case "time", "cputime":
		return psColumn{"time", "TIME", 8}, true
	case "etime", "etimes":
		return psColumn{name, "ELAPSED", 11}, true
	case "stime", "start":
		return psColumn{"stime", "STIME", 5}, true
	case "tty", "tt", "tname":
		return psColumn{"tty", "TTY", -8}, true
	case "vsz", "vsize":
		return psColumn{"vsz", "VSZ", 6}, true
	case "rss", "rssize":
		return psColumn{"rss", "RSS", 5}, true
	case "ni", "nice":
		return psColumn{"ni", "NI", 3}, true
	case "nlwp":
		return psColumn{"nlwp", "NLWP", 4}, true
	case "pcpu", "%cpu":
		return psColumn{"pcpu", "%CPU", 4}, true
	case "pmem", "%mem":
		return psColumn{"pmem", "%MEM", 4}, true
	case "comm", "ucmd", "ucomm":
		return psColumn{"comm", "COMMAND", -15}, true
	case "args", "cmd", "command":
		return psColumn{"args", "COMMAND", -1}, true
	}
	return psColumn{}, false
}

// runPS lists processes. Without options it lists all of them, as busybox does:
// in a microVM that is what one wants to see.
func runPS(c *call) int {
	args := c.args
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' && strings.Trim(args[0], "auxwf") == "" {
		c.args = append([]string{"-" + args[0]}, args[1:]...)
	}
	o, _, ok := c.parse("AeafuxwlTHo:p:t:U:", longOptions{"pid": 'p', "format": 'o', "no-headers": 'H'})
	if !ok {
		return exitFailure
	}
	spec := "pid,user,time,args"
	switch {
	case o.has('u'):
		spec = "user,pid,pcpu,pmem,vsz,rss,tty,stat,stime,time,args"
	case o.has('f'):
		spec = "user=UID,pid,ppid,stime,tty,time,args=CMD"
	case o.has('l'):
		spec = "stat,uid,pid,ppid,ni,vsz,rss,tty,time,args"
	}
	var given []string
	for _, opt := range o {
		if opt.flag == 'o' {
			given = append(given, opt.value)
		}
	}
	if len(given) > 0 {
		spec = strings.Join(given, ",")
	}
	cols, err := psColumns(spec)
	if err != nil {
		return c.errorf("%s", err)
	}
	pids, status, err := c.psSelection(o)
	if err != nil {
		return c.errorf("%s", reason(err))
	}
	c.out.buffered()
	c.psPrint(cols, pids)
	return status
}

// psSelection gives the processes to show; naming only absent ones is status 1.
func (c *call) psSelection(o options) (pids []int, status int, err error) {
	list, ok := o.get('p')
	if !ok {
		pids, err = processIDs()
		return pids, exitOK, err
	}
	status = exitFailure
	for field := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, exitFailure, fmt.Errorf("%s: not a process id", field)
		}
		if syscall.Kill(pid, 0) != syscall.ESRCH && pid > 0 {
			status = exitOK
			pids = append(pids, pid)
		}
	}
	return pids, status, nil
}

func (c *call) psPrint(cols []psColumn, pids []int) {
	env := psEnv{users: loadUsers(), now: time.Now(), uptime: uptime(), memory: totalMemoryKiB()}
	titles := false
	for _, col := range cols {
		titles = titles || col.title != ""
	}
	row := func(cell func(psColumn) string) {
		for i, col := range cols {
			text, width := cell(col), max(col.width, -col.width)
			if i > 0 {
				c.out.WriteByte(' ')
			}
			pad := strings.Repeat(" ", max(0, width-len(text)))
			switch {
			case col.width > 0:
				c.out.WriteString(pad + text)
			case i == len(cols)-1:
				c.out.WriteString(text)
			default:
				c.out.WriteString(text + pad)
			}
		}
		c.out.WriteByte('\n')
	}
	if titles {
		row(func(col psColumn) string { return col.title })
	}
	for _, pid := range pids {
		p, err := readProc(pid)
		if err != nil {
			continue // it has just ended
		}
		row(func(col psColumn) string { return env.cell(p, col.field) })
	}
}

// psEnv is what the cells of ps need besides the process.
type psEnv struct {
	users  accounts
	now    time.Time
	uptime time.Duration
	memory int64
}

func (e psEnv) cell(p procInfo, field string) string {
	switch field {
	case "pid", "tid":
		return strconv.Itoa(p.pid)
	case "ppid":
		return strconv.Itoa(p.ppid)
	case "pgid":
		return strconv.Itoa(p.pgrp)
	case "sid":
		return strconv.Itoa(p.session)
	case "user":
		return e.users.name(p.uid)
	case "uid":
		return strconv.Itoa(int(p.uid))
	case "stat":
		return p.state
	case "time":
		return clock(p.cpu, true)
	case "etime":
		return clock(e.uptime-p.started, false)
	case "etimes":
		return strconv.Itoa(int((e.uptime - p.started).Seconds()))
	case "stime":
		at := e.now.Add(p.started - e.uptime)
		if e.now.Sub(at) > 24*time.Hour {
			return at.Format("Jan02")
		}
		return at.Format("15:04")
	case "tty":
		return ttyName(p.tty)
	case "vsz":
		return strconv.FormatInt(p.vsz, 10)
	case "rss":
		return strconv.FormatInt(p.rss, 10)
	case "ni":
		return strconv.Itoa(p.nice)
	case "nlwp":
		return strconv.Itoa(p.threads)
	case "pcpu":
		return fmt.Sprintf("%.1f", 100*p.cpu.Seconds()/max(0.01, (e.uptime-p.started).Seconds()))
	case "pmem":
		return fmt.Sprintf("%.1f", 100*float64(p.rss)/float64(max(1, e.memory)))
	case "comm":
		return p.comm
	}
	return p.args
}

// clock shows a duration as [D-]HH:MM:SS, or without leading hours.
func clock(d time.Duration, hours bool) string {
	s := int(max(0, d).Seconds())
	text := fmt.Sprintf("%02d:%02d", s/60%60, s%60)
	if hours || s >= 3600 {
		text = fmt.Sprintf("%02d:", s/3600%24) + text
	}
	if s >= 86400 {
		text = fmt.Sprintf("%d-", s/86400) + text
	}
	return text
}

// ttyName names a terminal by its device number.
func ttyName(dev int) string {
	maj, min := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	switch {
	case dev == 0:
		return "?"
	case maj == 4 && min < 64:
		return "tty" + strconv.Itoa(min)
	case maj == 4:
		return "ttyS" + strconv.Itoa(min-64)
	case maj >= 136 && maj <= 143:
		return "pts/" + strconv.Itoa(min+(maj-136)<<8)
	case maj == 229:
		return "hvc" + strconv.Itoa(min)
	}
	return fmt.Sprintf("%d:%d", maj, min)
}

// uptime is the time since boot, or 0 when /proc is not there.
func uptime() time.Duration {
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return time.Duration(v * float64(time.Second))
}

// memInfo reads /proc/meminfo, in KiB.
func memInfo() map[string]int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil
	}
	info := map[string]int64{}
	for line := range strings.SplitSeq(string(data), "\n") {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		if v, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			info[name] = v
		}
	}
	return info
}

func totalMemoryKiB() int64 { return memInfo()["MemTotal"] }
