package supervisor

import (
	"context"
	"time"

	"github.com/mvmctl/mvmctl/internal/control"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// settleTime is how long a VMM whose guest has no agent has to run to count as up: one that cannot
// start its machine says so at once.
const settleTime = time.Second

// alone reports whether a VM's guest has no agent.
func alone(vm driver.VM) bool {
	a, ok := vm.(driver.Agentless)
	return ok && a.Agentless()
}

// liveAlone takes a started VMM to its end whose guest nobody can speak with.
func (s *supervisor) liveAlone(ctx context.Context, vm driver.VM, gone chan error) error {
	s.update(func(st *machine.Status) { st.NoAgent = true })
	s.mu.Lock()
	s.vm = vm
	s.mu.Unlock()
	if len(s.opts.Request.Ports) > 0 {
		if err := vm.Kill(); err != nil {
			s.opts.Log.Error("killing the VMM", "error", err)
		}
		s.ended(<-gone)
		e := machine.ErrNoAgent()
		e.Message = "no port of this machine can be published: " + e.Message
		e.Remedy = "leave out --publish, and use microvm.forwardPorts in the flake"
		return e
	}
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	select {
	case err := <-gone:
		if err == nil {
			return s.withConsole(machine.Errorf("boot.powered_off", printedBelow, "the runner ended as soon as it was started"))
		}
		return s.diedEarly(err)
	case req := <-s.stopping:
		return s.stop(vm, gone, req)
	case <-ctx.Done():
		return s.stop(vm, gone, control.StopRequest{Force: true})
	case <-settled.C:
	}
	fault.Point(fault.SupReady)
	s.phase("settled")
	return s.untilEnd(ctx, vm, gone)
}
