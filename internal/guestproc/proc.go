//go:build unix

package guestproc

import (
	"os"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Proc is one started process. It is safe for concurrent use.
type Proc struct {
	table *Table
	pid   int
	init  bool // it rules over all others in its namespaces, and alone gets our signals
	start time.Time
	done  chan struct{}
	exit  agentproto.Exit // valid once done is closed

	// Guarded by table.mu.
	reaped   bool
	killRest bool
	collect  bool  // Stop is under way: at the leader's end, note who is left of its session …
	polite   bool  // … and give them the rest of its grace, whatever killRest says
	forced   bool  // a Stop has lost its patience: no later one is polite
	rest     group // filled when collect is set
}

// Pid is the process id, also of its process group and session.
func (p *Proc) Pid() int { return p.pid }

// Done is closed when the process has been reaped; Exit is valid from then on.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Exit says how the process ended. It must not be called before Done is closed. On Linux the
// kernel counts the agent's own memory at the moment of the start into MaxRSS (the child
// borrows it until it execs), so small values have a floor of some MiB.
func (p *Proc) Exit() agentproto.Exit { return p.exit }

// Signal sends sig to the whole process group, but to an init alone: it tells its processes
// itself, and what it has forked a moment ago is still in its group. It is os.ErrProcessDone when the leader has
// been reaped: the number may belong to somebody else by then.
func (p *Proc) Signal(sig syscall.Signal) error {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	return p.signal(sig)
}

func (p *Proc) signal(sig syscall.Signal) error {
	if p.reaped {
		return os.ErrProcessDone
	}
	// The leader lives or is our zombie, so its number cannot be anybody else's.
	if p.init {
		return syscall.Kill(p.pid, sig)
	}
	return syscall.Kill(-p.pid, sig)
}

// Stop sends first to the process group and waits up to grace for all of it to end; then it
// kills what is left of the group and of other groups in its session. It returns when the
// process has been reaped and the rest is gone or killed. A process that a member of the
// group put into a session of its own is out of reach.
func (p *Proc) Stop(first syscall.Signal, grace time.Duration) {
	deadline := time.Now().Add(grace)
	p.table.mu.Lock()
	p.collect = true
	if grace > 0 {
		p.polite = !p.forced
		// A stopped (SIGSTOP) group would never see the signal.
		if p.signal(first) == nil {
			_ = p.signal(syscall.SIGCONT)
		}
	} else {
		p.force()
	}
	p.table.mu.Unlock()

	if grace > 0 {
		timer := time.NewTimer(grace)
		select {
		case <-p.done:
		case <-timer.C:
			p.table.mu.Lock()
			p.force()
			p.table.mu.Unlock()
		}
		timer.Stop()
	}
	<-p.done
	p.table.mu.Lock()
	rest := p.rest
	p.rest = group{}
	p.table.mu.Unlock()
	rest.waitOrKill(p.pid, time.Until(deadline))
}

// force kills the group now, and what is left of the session when the leader is reaped.
func (p *Proc) force() {
	p.killRest, p.polite, p.forced = true, false, true
	_ = p.signal(syscall.SIGKILL)
}

// beforeReap runs while the leader is a zombie, which keeps its number from being reused.
func (p *Proc) beforeReap() {
	switch {
	case p.killRest && !p.polite:
		killSession(p.pid)
	case p.collect:
		p.rest = findSession(p.pid)
	}
}

// finish records the end; table.mu is held.
func (p *Proc) finish(status syscall.WaitStatus, usage *syscall.Rusage) {
	p.reaped = true
	p.exit = exitOf(status)
	p.exit.WallTime = agentproto.Duration(time.Since(p.start))
	if usage != nil {
		p.exit.UserTime = agentproto.Duration(usage.Utime.Nano())
		p.exit.SystemTime = agentproto.Duration(usage.Stime.Nano())
		p.exit.MaxRSS = int64(usage.Maxrss) * maxRSSUnit
	}
	close(p.done)
}

func exitOf(status syscall.WaitStatus) agentproto.Exit {
	if status.Signaled() {
		sig := status.Signal()
		return agentproto.Exit{Code: 128 + int(sig), Signal: signalName(sig)}
	}
	return agentproto.Exit{Code: status.ExitStatus()}
}
