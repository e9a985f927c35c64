//go:build unix

package userland

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// ulimit shows or sets the limits of this process that the shell's children
// inherit.
func ulimit(c *call) int {
	o, args, ok := c.parse("HSaftdscnvup", nil)
	if !ok {
		return exitUsage
	}
	resources := []struct {
		flag     rune
		resource int
		unit     uint64
		text     string
	}{
		{'c', unix.RLIMIT_CORE, 512, "core file size (blocks)"},
		{'d', unix.RLIMIT_DATA, 1024, "data seg size (kb)"},
		{'f', unix.RLIMIT_FSIZE, 512, "file size (blocks)"},
		{'n', unix.RLIMIT_NOFILE, 1, "open files"},
		{'s', unix.RLIMIT_STACK, 1024, "stack size (kb)"},
		{'t', unix.RLIMIT_CPU, 1, "cpu time (seconds)"},
		{'u', unix.RLIMIT_NPROC, 1, "processes"},
		{'v', unix.RLIMIT_AS, 1024, "virtual memory (kb)"},
	}
	flag := o.last('c', 'd', 'f', 'n', 's', 't', 'u', 'v')
	if flag == 0 {
		flag = 'f'
	}
	for _, r := range resources {
		if !o.has('a') && r.flag != flag {
			continue
		}
		var limit unix.Rlimit
		if err := unix.Getrlimit(r.resource, &limit); err != nil {
			return c.errorf("%s", reason(err))
		}
		if len(args) > 0 && !o.has('a') {
			return setLimit(c, o, args[0], r.resource, r.unit, limit)
		}
		v := uint64(limit.Cur)
		if o.has('H') {
			v = uint64(limit.Max)
		}
		text := "unlimited"
		if v != uint64(rlimInfinity) {
			text = strconv.FormatUint(v/r.unit, 10)
		}
		if o.has('a') {
			c.printf("-%c: %-28s %s\n", r.flag, r.text, text)
		} else {
			c.printf("%s\n", text)
		}
	}
	return exitOK
}

const rlimInfinity = ^uint64(0) >> rlimShift

func setLimit(c *call, o options, value string, resource int, unit uint64, limit unix.Rlimit) int {
	if c.self == "" {
		return c.errorf("limits cannot be changed here")
	}
	v := uint64(rlimInfinity)
	if value != "unlimited" {
		n, err := strconv.ParseUint(value, 10, 50)
		if err != nil {
			return c.errorf("%s: invalid number", value)
		}
		v = n * unit
	}
	if !o.has('H') {
		limit.Cur = v
	}
	if !o.has('S') || o.has('H') {
		limit.Max = v
	}
	if err := unix.Setrlimit(resource, &limit); err != nil {
		return c.errorf("%s", reason(err))
	}
	return exitOK
}
