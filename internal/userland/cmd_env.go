package userland

import (
	"slices"
	"strings"
)

// runEnv prints the environment or runs a command in a changed one.
func runEnv(c *call) int {
	c.trouble = 125 // the status GNU env has for its own errors
	o, args, ok := c.parse("+iu:0C:v", longOptions{"ignore-environment": 'i', "unset": 'u', "null": '0', "chdir": 'C'})
	if !ok {
		return c.trouble
	}
	p := c.process()
	if len(args) > 0 && args[0] == "-" {
		o = append(o, option{flag: 'i'})
		args = args[1:]
	}
	if o.has('i') {
		p.env = []string{}
	}
	for _, opt := range o {
		if opt.flag == 'u' {
			p.env = envUnset(p.env, opt.value)
		}
	}
	for len(args) > 0 {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok {
			break
		}
		p.env = envSet(p.env, name, value)
		args = args[1:]
	}
	if len(args) == 0 {
		end := "\n"
		if o.has('0') {
			end = "\x00"
		}
		for _, e := range p.env {
			c.out.WriteString(e + end)
		}
		return exitOK
	}
	if dir, ok := o.get('C'); ok {
		p.dir = c.path(dir)
	}
	child := newCall(c.ctx, c.cmd, append([]string{c.name}, args...), p)
	return child.runChild(c.ctx, args, p, start{})
}

func envUnset(env []string, name string) []string {
	var out []string
	for _, e := range env {
		if k, _, _ := strings.Cut(e, "="); k != name {
			out = append(out, e)
		}
	}
	return out
}

func runPrintenv(c *call) int {
	o, names, ok := c.parse("0", longOptions{"null": '0'})
	if !ok {
		return exitUsage
	}
	end := "\n"
	if o.has('0') {
		end = "\x00"
	}
	if len(names) == 0 {
		for _, e := range c.env {
			c.out.WriteString(e + end)
		}
		return exitOK
	}
	status := exitOK
next:
	for _, name := range names {
		for _, v := range slices.Backward(c.env) {
			if k, v, ok := strings.Cut(v, "="); ok && k == name {
				c.out.WriteString(v + end)
				continue next
			}
		}
		status = exitFailure
	}
	return status
}
