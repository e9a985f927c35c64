package userland

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// runTimeout runs a command with a time limit.
func runTimeout(c *call) int {
	c.trouble = 125
	o, args, ok := c.parse("+s:k:vfp", longOptions{"signal": 's', "kill-after": 'k', "foreground": 'f', "preserve-status": 'p', "verbose": 'v'})
	if !ok {
		return c.trouble
	}
	if len(args) < 2 {
		return c.usageError("missing operand")
	}
	limit, ok := parseSleep(args[0])
	if !ok {
		c.errorf("invalid time interval '%s'", args[0])
		return c.trouble
	}
	sig := syscall.SIGTERM
	if text, ok := o.get('s'); ok {
		if sig, ok = parseSignal(text); !ok {
			c.errorf("'%s': invalid signal", text)
			return c.trouble
		}
	}
	killAfter := time.Duration(0)
	if text, ok := o.get('k'); ok {
		if killAfter, ok = parseSleep(text); !ok {
			c.errorf("invalid time interval '%s'", text)
			return c.trouble
		}
	}
	t, err := c.resolve(args[1])
	if err == nil && t.local && c.self == "" {
		status := c.timeoutInside(args[1:], limit)
		if status == 124 && sig == syscall.SIGKILL {
			return 128 + int(sig)
		}
		return status
	}
	pid := make(chan *os.Process, 1)
	expired := make(chan bool, 1)
	ended := make(chan struct{})
	go func() {
		select {
		case p := <-pid:
			expired <- endAfter(p, limit, killAfter, sig, ended)
		case <-ended:
			expired <- false
		}
	}()
	status := c.runChild(c.ctx, args[1:], c.process(), start{ownProcess: true, started: func(p *os.Process) { pid <- p }})
	close(ended)
	if !<-expired || o.has('p') {
		return status
	}
	if status == 128+int(syscall.SIGKILL) {
		return status
	}
	return 124
}

// endAfter ends a process that runs too long and reports whether it did.
func endAfter(p *os.Process, limit, killAfter time.Duration, sig syscall.Signal, ended <-chan struct{}) bool {
	wait := func(d time.Duration) bool {
		if d <= 0 { // as in GNU timeout: no limit
			<-ended
			return false
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return true
		case <-ended:
			return false
		}
	}
	if !wait(limit) {
		return false
	}
	_ = p.Signal(sig) // an error means that it has just ended
	if killAfter > 0 && wait(killAfter) {
		_ = p.Kill()
	}
	return true
}

// timeoutInside limits a command that runs in this process.
func (c *call) timeoutInside(argv []string, limit time.Duration) int {
	ctx, cancel := c.ctx, context.CancelFunc(func() {})
	if limit > 0 {
		ctx, cancel = context.WithTimeout(c.ctx, limit)
	}
	defer cancel()
	status := c.runChild(ctx, argv, c.process(), start{})
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && c.ctx.Err() == nil {
		return 124
	}
	return status
}

// runNohup runs a command that ignores SIGHUP; runSetsid one in a new session.
func runNohup(c *call) int {
	c.trouble = 125
	if len(c.args) == 0 {
		return c.usageError("missing operand")
	}
	p := c.process()
	if isTerminal(p.stdio.In) {
		p.stdio.In = nil
	}
	if isTerminal(p.stdio.Out) {
		f, err := os.OpenFile(c.path("nohup.out"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			c.fail("nohup.out", err)
			return c.trouble
		}
		defer f.Close()
		c.errorf("appending output to nohup.out")
		p.stdio.Out = f
		if isTerminal(p.stdio.Err) {
			p.stdio.Err = f
		}
	}
	return c.runInOwnWay(c.args, p, ignoreHangup)
}

func runSetsid(c *call) int {
	o, args, ok := c.parse("+cfw", longOptions{"ctty": 'c', "fork": 'f', "wait": 'w'})
	if !ok {
		return exitFailure
	}
	if len(args) == 0 {
		return c.usageError("missing operand")
	}
	return c.runInOwnWay(args, c.process(), func(cmd *exec.Cmd) (restore func()) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if o.has('c') {
			cmd.SysProcAttr.Setctty = true
		}
		return func() {}
	})
}

// runInOwnWay starts a command in a changed process.
func (c *call) runInOwnWay(argv []string, p process, change func(*exec.Cmd) func()) int {
	t, err := c.resolve(argv[0])
	if err != nil || (t.local && p.self == "") {
		return c.runChild(c.ctx, argv, p, start{}) // it says what is wrong
	}
	if t.path == "" {
		t.path = p.self
	}
	cmd := exec.CommandContext(c.ctx, t.path)
	cmd.Args, cmd.Env, cmd.Dir = argv, p.env, p.dir
	cmd.Stdout, cmd.Stderr = p.stdio.Out, p.stdio.Err
	cmd.WaitDelay = killDelay
	feed, err := connectInput(cmd, p.stdio.In)
	if err != nil {
		return c.errorf("%s", reason(err))
	}
	restore := change(cmd)
	err = cmd.Start()
	restore()
	if err != nil {
		c.errorf("%s: %s", argv[0], reason(err))
		return exitCannotExec
	}
	if feed != nil {
		go feed()
	}
	return waitStatus(cmd.Wait())
}

func runWhich(c *call) int {
	o, names, ok := c.parse("as", nil)
	if !ok {
		return exitUsage
	}
	status := exitOK
	for _, name := range names {
		t, err := c.resolve(name)
		switch {
		case err != nil:
			status = exitFailure
		case o.has('s'):
		case t.path != "":
			c.printf("%s\n", t.path)
		default:
			c.printf("%s\n", name) // only built in
		}
	}
	return status
}

func runTTY(c *call) int {
	o, _, ok := c.parse("s", longOptions{"silent": 's', "quiet": 's'})
	if !ok {
		return exitUsage
	}
	name := "not a tty"
	if isTerminal(c.stdio.In) {
		name = terminalName(c.stdio.In.(*os.File))
	}
	if !o.has('s') {
		c.printf("%s\n", name)
	}
	return boolInt(name == "not a tty")
}

func runClear(c *call) int {
	c.out.WriteString("\x1b[H\x1b[2J\x1b[3J")
	return exitOK
}

func runNproc(c *call) int {
	o, _, ok := c.parse("ai:", longOptions{"all": 'a', "ignore": 'i'})
	if !ok {
		return exitFailure
	}
	n := runtime.NumCPU()
	if text, ok := o.get('i'); ok {
		n = max(1, n-atoi(text))
	}
	c.printf("%d\n", n)
	return exitOK
}

func runHostname(c *call) int {
	o, args, ok := c.parse("sfidF:", longOptions{"short": 's', "fqdn": 'f', "long": 'f', "domain": 'd', "file": 'F'})
	if !ok {
		return exitFailure
	}
	if name, ok := o.get('F'); ok {
		data, err := os.ReadFile(c.path(name))
		if err != nil {
			return c.fail(name, err)
		}
		args = []string{strings.TrimSpace(string(data))}
	}
	if len(args) > 0 {
		if err := setHostname(args[0]); err != nil {
			return c.errorf("sethostname: %s", reason(err))
		}
		return exitOK
	}
	name, err := os.Hostname()
	if err != nil {
		return c.errorf("%s", reason(err))
	}
	short, domain, _ := strings.Cut(name, ".")
	switch o.last('s', 'd', 'i') {
	case 's':
		name = short
	case 'd':
		name = domain
	case 'i':
		return c.printAddresses()
	}
	c.printf("%s\n", name)
	return exitOK
}
