//go:build unix

package agent

import (
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

const (
	defaultTerm  = "xterm-256color"
	maxTerm      = 64          // bytes
	timeoutGrace = time.Second // between SIGTERM and SIGKILL for a command that ran too long
)

func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	var start agentproto.ExecStart
	s, ok := openStream(w, r, &start)
	if !ok {
		return
	}
	p, err := a.startExec(start)
	if err != nil {
		s.exit(failedExit(err))
		return
	}
	s.exit(a.converse(s, p, conversation{stdin: start.Stdin, timeout: time.Duration(start.Timeout)}))
}

// startExec resolves and starts a requested process.
func (a *Agent) startExec(start agentproto.ExecStart) (*program, *agentproto.Error) {
	if start.TTY {
		start.Process = withTerm(start.Process, start.Term)
	}
	spec, perr := a.opts.Resolver.Resolve(start.Process)
	if perr != nil {
		return nil, perr
	}
	p, err := a.startProgram(spec, wiring{stdin: start.Stdin, tty: start.TTY, rows: start.Rows, cols: start.Cols})
	if err != nil {
		return nil, asError(err)
	}
	return p, nil
}

// withTerm returns p with TERM in its environment, unless it has one.
func withTerm(p agentproto.Process, term string) agentproto.Process {
	if _, ok := p.Env["TERM"]; ok {
		return p
	}
	if !plainTerm(term) {
		term = defaultTerm
	}
	env := map[string]string{"TERM": term}
	maps.Copy(env, p.Env)
	p.Env = env
	return p
}

// plainTerm says whether a host's TERM is the name of a terminal. Programs make the name of a
// file of it.
func plainTerm(term string) bool {
	return term != "" && len(term) <= maxTerm && !strings.ContainsFunc(term, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("+-._", r)
	})
}

// conversation says how a program and a host are connected.
type conversation struct {
	stdin   bool
	timeout time.Duration // 0: none
	idle    time.Duration // 0: none
	gone    func()        // called as soon as the host is gone or the program has ended; may be nil
}

// converse connects a started program to the host until it has ended, and returns how. When
// the host vanishes the program's group gets SIGHUP, and SIGKILL after KillGrace.
func (a *Agent) converse(s *stream, p *program, c conversation) agentproto.Exit {
	defer p.close()
	verdict := &verdict{proc: p.proc, agent: a}
	broken := func(e *agentproto.Error) { verdict.end(e, syscall.SIGKILL, 0) }
	if s.writeJSON(agentproto.RecStarted, agentproto.Started{Pid: p.proc.Pid()}) != nil {
		verdict.end(nil, syscall.SIGHUP, agentproto.KillGrace)
	}
	idle := newIdleTimer(c.idle)
	p.pump(a, func(t agentproto.RecordType, b []byte) error {
		idle.touch()
		return s.write(t, b)
	}, broken)
	in := &input{
		agent: a, s: s, p: p, taken: c.stdin, active: idle.touch,
		broken: broken,
	}
	var reader sync.WaitGroup
	reader.Go(func() { a.guarded(broken, in.run) })

	a.watch(s, p, c, idle, verdict)
	verdict.wait()
	p.wait()
	p.close()
	s.stopReading()
	reader.Wait()
	in.wait()
	exit := verdict.exit()
	if exit.Error != nil && exit.Error.Code == agentproto.CodeConsoleIdle {
		_ = s.write(agentproto.RecStdout, fmt.Appendf(nil, "\r\nmvm: %s\r\n", exit.Error.Message))
	}
	return exit
}

// watch returns when the program has ended, having ended it if there was a reason to.
func (a *Agent) watch(s *stream, p *program, c conversation, idle *idleTimer, v *verdict) {
	var timeout <-chan time.Time
	if c.timeout > 0 {
		t := time.NewTimer(c.timeout)
		defer t.Stop()
		timeout = t.C
	}
	defer idle.stop()
	gone := s.ctx.Done()
	stopping := a.stopping
	for {
		select {
		case <-p.proc.Done():
			if c.gone != nil {
				c.gone()
			}
			return
		case <-gone:
			gone = nil
			if c.gone != nil {
				c.gone()
			}
			v.end(nil, syscall.SIGHUP, agentproto.KillGrace)
		case <-stopping:
			stopping = nil
			v.end(agentproto.Errorf(agentproto.CodeLost, "", "the machine is stopping"), syscall.SIGHUP, agentproto.KillGrace)
		case <-timeout:
			v.end(agentproto.Errorf(agentproto.CodeExecTimeout, "allow more with --timeout",
				"the command did not end within %v", c.timeout), syscall.SIGTERM, timeoutGrace)
		case <-idle.C():
			if !idle.expired() {
				continue
			}
			if c.gone != nil {
				c.gone()
			}
			v.end(agentproto.Errorf(agentproto.CodeConsoleIdle, "open it again", "console closed after %v without input or output", c.idle),
				syscall.SIGHUP, agentproto.KillGrace)
		}
	}
}

// verdict ends a program for the first reason that comes up and remembers it.
type verdict struct {
	agent *Agent
	proc  *guestproc.Proc
	mu    sync.Mutex
	done  bool
	why   *agentproto.Error
	stop  sync.WaitGroup
}

func (v *verdict) end(why *agentproto.Error, first syscall.Signal, grace time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.done {
		return
	}
	v.done, v.why = true, why
	v.stop.Go(func() { guestproc.Guard(v.agent.blame, func() { v.proc.Stop(first, grace) }) })
}

// wait returns when a Stop that is under way has reached the whole group.
func (v *verdict) wait() { v.stop.Wait() }

func (v *verdict) exit() agentproto.Exit {
	e := v.proc.Exit()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.why != nil {
		e.Error = v.why
		if v.why.Code == agentproto.CodeExecTimeout {
			e.Code = 124
		}
	}
	return e
}

// idleTimer notices when nothing has happened for a while. touch only notes the time: with
// every chunk of output it must cost nothing.
type idleTimer struct {
	limit time.Duration
	last  atomic.Int64 // nanoseconds since base
	base  time.Time
	timer *time.Timer
}

func newIdleTimer(limit time.Duration) *idleTimer {
	t := &idleTimer{limit: limit, base: time.Now()}
	if limit > 0 {
		t.timer = time.NewTimer(limit)
	}
	return t
}

func (t *idleTimer) touch() {
	if t.limit > 0 {
		t.last.Store(int64(time.Since(t.base)))
	}
}

// C is nil, which blocks for ever, when there is no limit.
func (t *idleTimer) C() <-chan time.Time {
	if t.timer == nil {
		return nil
	}
	return t.timer.C
}

// expired is for who received from C: if something has happened since, C is set again.
func (t *idleTimer) expired() bool {
	left := t.limit - (time.Since(t.base) - time.Duration(t.last.Load()))
	if left > 0 {
		t.timer.Reset(left)
		return false
	}
	return true
}

func (t *idleTimer) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}

// consoleSlot is the machine's one console session.
type consoleSlot struct {
	mu    sync.Mutex
	owner *consoleOwner
}

type consoleOwner struct{ since time.Time }

// take returns the new owner, or nil and since when somebody else is.
func (c *consoleSlot) take() (*consoleOwner, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owner != nil {
		return nil, c.owner.since
	}
	c.owner = &consoleOwner{time.Now().UTC()}
	return c.owner, c.owner.since
}

// free gives the slot back if o still has it.
func (c *consoleSlot) free(o *consoleOwner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owner == o {
		c.owner = nil
	}
}

func (c *consoleSlot) status() *agentproto.ConsoleStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owner == nil {
		return nil
	}
	return &agentproto.ConsoleStatus{Since: c.owner.since}
}

func (a *Agent) serveConsole(w http.ResponseWriter, r *http.Request) {
	owner, since := a.console.take()
	if owner == nil {
		refuse(w, agentproto.Errorf(agentproto.CodeConsoleBusy, "end that session, or use mvmctl exec",
			"another console session is open since %s", since.Format(time.RFC3339)))
		return
	}
	defer a.console.free(owner)
	var start agentproto.ExecStart
	s, ok := openStream(w, r, &start)
	if !ok {
		return
	}
	start.TTY = true
	p, err := a.startConsole(start)
	if err != nil {
		s.exit(failedExit(err))
		return
	}
	s.exit(a.converse(s, p, conversation{
		stdin: start.Stdin, timeout: time.Duration(start.Timeout),
		idle: a.opts.Config.ConsoleIdle.Or(agentproto.ConsoleIdle),
		// The slot is free the moment the host is gone, not when its shell has died; and when the
		// shell has ended, not when a host that has stopped reading has taken its last output.
		gone: func() { a.console.free(owner) },
	}))
}

// startConsole starts the requested command, or the first shell that can be started: an
// image's /bin/sh may be there and still lack its loader.
func (a *Agent) startConsole(start agentproto.ExecStart) (*program, *agentproto.Error) {
	if len(start.Args) > 0 {
		return a.startExec(start)
	}
	shells := [][]string{{"/bin/sh"}, {filepath.Join(agentproto.GuestBin, "sh")}}
	if len(a.opts.Shell) > 0 {
		shells = [][]string{a.opts.Shell}
	}
	var first *agentproto.Error
	for _, shell := range shells {
		start.Args = shell
		p, err := a.startExec(start)
		if err == nil {
			return p, nil
		}
		if first == nil {
			first = err
		}
		if err.Code != agentproto.CodeNotFound && err.Code != agentproto.CodeNotExecutable {
			break
		}
	}
	return nil, first
}
