//go:build unix

package agent

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Status is what the agent knows about the guest.
func (a *Agent) Status() agentproto.Status {
	o := a.opts
	s := agentproto.Status{
		Phase:   a.phase.Load().(string),
		Uptime:  agentproto.Duration(a.uptime()),
		Worker:  "idle",
		Streams: int(a.streams.Load()),
		Console: a.console.status(),
		Memory:  memory(),
		Kernel:  kernelRelease(),
		Build:   o.Build,
	}
	if a.busy.Load() > 0 {
		s.Worker = "busy"
	}
	if o.Timings != nil {
		s.Timings = o.Timings()
	}
	if a.main != nil {
		s.Main = a.main.status()
	}
	if o.Services != nil {
		s.Services = o.Services.Status()
		s.Checks = o.Services.CheckStatus()
	}
	return s
}

// uptime is the guest's where the agent is its first process, otherwise the agent's.
func (a *Agent) uptime() time.Duration {
	if up, ok := bootTime(); ok && a.opts.Root == "/" {
		return up
	}
	return time.Since(a.started)
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
