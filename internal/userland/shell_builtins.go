package userland

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/interp"
)

// builtin runs one of the shell's own builtins; name is without the prefix.
func (s *shell) builtin(ctx context.Context, c *call, hc interp.HandlerContext, name string) int {
	c.name = "sh: " + name
	var status int
	switch name {
	case "job_new":
		status = s.jobNew(c)
	case "job_pid":
		status = s.jobPID(c)
	case "job_end":
		status = s.jobEnd(c)
	case "kill":
		status = s.kill(c)
	case "wait":
		status = s.wait(ctx, c, hc)
	case "jobs":
		status = s.listJobs(c)
	case "umask":
		status = s.umask(c)
	case "ulimit":
		status = ulimit(c)
	case "printf", "echo":
		c.name = name
		c.cmd, _ = lookup(name)
		status = c.cmd.run(c)
	default:
		c.errorf("not found")
		status = exitNotFound
	}
	return c.finish(status)
}

// jobNew registers a job: KIND and the surrounding job's id. It prints the id.
func (s *shell) jobNew(c *call) int {
	if len(c.args) != 2 {
		return exitFailure
	}
	c.printf("%d\n", s.jobs.add(c.args[0] == "simple", c.args[1]).id)
	return exitOK
}

// jobPID prints a job's process id, once it is known.
func (s *shell) jobPID(c *call) int {
	if len(c.args) != 1 {
		return exitFailure
	}
	j := s.jobs.byID(c.args[0])
	if j == nil {
		return exitFailure
	}
	select {
	case <-j.begun:
	case <-c.ctx.Done():
		return exitFailure
	}
	if s.interactive {
		fmt.Fprintf(c.err, "[%d] %d\n", j.id, j.pid)
	}
	c.printf("%d\n", j.pid)
	return exitOK
}

// jobEnd notes a job's exit status.
func (s *shell) jobEnd(c *call) int {
	if len(c.args) != 2 {
		return exitFailure
	}
	status, err := strconv.Atoi(c.args[1])
	j := s.jobs.byID(c.args[0])
	if err != nil || j == nil {
		return exitFailure
	}
	j.end(status)
	return exitOK
}

// kill is the kill command that also knows the shell's jobs.
func (s *shell) kill(c *call) int {
	c.name = "kill"
	return runKillWith(c, func(target string) (func(sig int) error, bool) {
		if c.self != "" && target == strconv.Itoa(os.Getpid()) {
			return s.traps.killSelf, true
		}
		j := s.jobs.find(target)
		if j == nil {
			return nil, false
		}
		return func(sig int) error { return j.signal(signalNumber(sig)) }, true
	})
}

// wait waits for jobs; a signal with a trap ends it early, by POSIX 2.11.
func (s *shell) wait(ctx context.Context, c *call, hc interp.HandlerContext) int {
	if sig, ok := s.traps.arrived(); ok {
		return 128 + int(sig)
	}
	waitFor := func(j *job) (status int, interrupted bool) {
		select {
		case <-j.done:
			return j.status, false
		case <-ctx.Done():
			return exitInterrupted, true
		case sig := <-s.traps.wake:
			return 128 + sig, true
		}
	}
	if len(c.args) == 0 {
		inside := hc.Env.Get(varInside).String()
		for _, j := range s.jobs.all() {
			if j.parent != inside {
				continue
			}
			if status, interrupted := waitFor(j); interrupted {
				return status
			}
		}
		return exitOK
	}
	status := exitOK
	for _, arg := range c.args {
		j := s.jobs.find(arg)
		if j == nil {
			c.errorf("pid %s is not a child of this shell", arg)
			status = exitNotFound
			continue
		}
		var interrupted bool
		if status, interrupted = waitFor(j); interrupted {
			return status
		}
	}
	return status
}

func (s *shell) listJobs(c *call) int {
	opts, _, ok := c.parse("pl", nil)
	if !ok {
		return exitUsage
	}
	for _, j := range s.jobs.all() {
		if j.finished() {
			continue
		}
		<-j.begun
		if opts.has('p') {
			c.printf("%d\n", j.pid)
		} else {
			c.printf("[%d] %d Running\n", j.id, j.pid)
		}
	}
	return exitOK
}

// umask shows or sets the mask for new files. It is the process's, so an
// embedded shell only shows it.
func (s *shell) umask(c *call) int {
	opts, args, ok := c.parse("+Sp", nil)
	if !ok {
		return exitUsage
	}
	mask := currentUmask()
	if len(args) == 0 {
		if opts.has('S') {
			perm := ^mask & 0o777
			c.printf("u=%s,g=%s,o=%s\n", permLetters(perm>>6), permLetters(perm>>3), permLetters(perm))
		} else {
			c.printf("%04o\n", mask)
		}
		return exitOK
	}
	n, err := strconv.ParseUint(args[0], 8, 32)
	if err != nil || n > 0o777 {
		m, perr := parseMode(args[0])
		if perr != nil {
			return c.errorf("%s: invalid mask", args[0])
		}
		// A symbolic mask says what stays allowed.
		n = uint64(^m.apply(^uint32(mask)&0o777, false, 0) & 0o777)
	}
	if s.c.self == "" {
		return c.errorf("the mask cannot be changed here")
	}
	setUmask(int(n))
	return exitOK
}

func permLetters(bits int) string {
	var s strings.Builder
	for i, l := range "rwx" {
		if bits&(4>>i) != 0 {
			s.WriteString(string(l))
		}
	}
	return s.String()
}
