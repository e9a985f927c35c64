package supervisor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/control"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// stop takes the machine down: agent, then power button, then kill, each with a deadline.
func (s *supervisor) stop(vm driver.VM, gone chan error, req control.StopRequest) error {
	s.stopPausing(req.Force)
	s.update(func(st *machine.Status) {
		if st.Reason == "" {
			st.Reason = "stopped"
		}
	})
	fault.Point(fault.SupStopping)
	grace := time.Duration(req.GraceMS) * time.Millisecond
	if grace <= 0 {
		grace = defaultGrace
	}
	if alone(vm) {
		if !req.Force && s.pressButton(vm, gone, max(grace, powerKeyTime)) {
			return nil
		}
		if !req.Force {
			s.update(func(st *machine.Status) { st.Reason = "killed: it did not stop in time" })
		}
	} else if up := !s.Status().Ready.IsZero(); up && !req.Force {
		if s.askGuest(gone, grace) || s.pressButton(vm, gone, powerKeyTime) {
			return nil
		}
		s.update(func(st *machine.Status) { st.Reason = "killed: it did not stop in time" })
	}
	if up := !s.Status().Ready.IsZero(); up && req.Force && !alone(vm) && s.flush(gone) {
		return nil
	}
	if err := vm.Kill(); err != nil {
		return fmt.Errorf("killing the VMM: %w", err)
	}
	s.ended(<-gone)
	return nil
}

// hasVolumes reports whether the guest writes to something that outlives it.
func (s *supervisor) hasVolumes() bool {
	return slices.ContainsFunc(s.opts.Request.Boot.Disks, func(d machine.Disk) bool { return d.Role.IsVolume() && !d.ReadOnly })
}

// flush gives a guest that is to be killed a moment to write to its volumes, which outlive it,
// what it still holds in memory, and reports whether the VMM has ended of it. A guest without
// volumes has nothing to lose that stays.
func (s *supervisor) flush(gone chan error) bool {
	if !s.hasVolumes() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	agreed := make(chan error, 1)
	go func() { agreed <- s.guest.shutdown(ctx, time.Millisecond) }()
	for {
		select {
		case err := <-gone:
			s.ended(err)
			return true
		case err := <-agreed:
			if err != nil {
				s.opts.Log.Warn("asking the guest to write to its volumes", "error", err)
				return false
			}
		case <-ctx.Done():
			return false
		}
	}
}

// askGuest has the agent shut the guest down, and reports whether the VMM has ended of it. An
// agent that agrees gets its programs' grace and ample time to power off. One that does not even
// answer within the grace stands still and gets no more time for that; what is left is the power button.
func (s *supervisor) askGuest(gone chan error, grace time.Duration) bool {
	factor := time.Duration(1)
	if s.opts.Request.Slow {
		factor = slowFactor
	}
	deadline := time.Now().Add(grace + powerOffTime*factor)
	ctx, cancel := context.WithTimeout(context.Background(), max(grace, minAnswerTime))
	defer cancel()
	agreed := make(chan error, 1)
	go func() { agreed <- s.guest.shutdown(ctx, grace) }()
	select {
	case err := <-agreed:
		fault.Point(fault.SupShutdown)
		if err != nil {
			s.opts.Log.Warn("asking the guest to shut down", "error", err)
			return false
		}
	case err := <-gone: // a guest that powers off at once is seen to end before its answer is
		fault.Point(fault.SupShutdown)
		s.ended(err)
		s.drainLogs(s.guest)
		return true
	case <-s.killNow:
		return false
	}
	if s.await(gone, time.Until(deadline)) {
		s.drainLogs(s.guest)
		return true
	}
	s.opts.Log.Warn("the guest did not power off in time")
	return false
}

// shutdown asks the guest to shut down, and returns nil when it has agreed. A connection that
// ends over the question is no answer: a guest that powers off at once looks like that, and so
// does one whose agent lost the connection for another reason and takes a new one. It is asked
// again then; when it does not come back, it is going down.
func (g *guest) shutdown(ctx context.Context, grace time.Duration) error {
	var asked *agentclient.Client
	for {
		c := g.other(ctx, asked)
		switch {
		case c == nil && asked != nil:
			return nil
		case c == nil:
			return fmt.Errorf("no connection to the guest agent: %w", ctx.Err())
		}
		err := c.Shutdown(ctx, agentproto.ShutdownRequest{Grace: agentproto.Duration(grace)})
		if agentproto.CodeOf(err) != agentproto.CodeLost {
			return err
		}
		asked = c
	}
}

// pressButton presses the power button and reports whether that ended the VMM. It is the last
// resort before the kill, for a guest with a listener of its own; a VMM that stands still does
// not even take it.
func (s *supervisor) pressButton(vm driver.VM, gone chan error, d time.Duration) bool {
	if s.forced() {
		return false
	}
	ctx, cancel := s.untilForced(d)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := vm.Shutdown(ctx); err != nil {
		s.opts.Log.Warn("pressing the power button", "error", err)
		return false
	}
	return s.await(gone, time.Until(deadline))
}

// await waits for the VMM's end, for at most d; a forced stop cuts the wait short.
func (s *supervisor) await(gone chan error, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case err := <-gone:
		s.ended(err)
		return true
	case <-t.C:
	case <-s.killNow:
	}
	return false
}

// ended notes how a VMM ended that was told to: for the log only.
func (s *supervisor) ended(err error) {
	if err != nil {
		s.opts.Log.Info("the VMM ended", "error", err)
	}
}

// drainLogs gives the log pump time for lines that came before the end.
func (s *supervisor) drainLogs(g *guest) {
	select {
	case <-g.logged:
	case <-time.After(drainLogs):
	}
}
