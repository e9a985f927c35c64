package supervisor

import (
	"context"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// pauseTimeout bounds how long a VMM may take to pause its guest or let it go on.
const pauseTimeout = 15 * time.Second

// Pause implements control.Supervisor. A pause that fails half-way is taken back: nobody would know
// of a guest that stands still. A forced stop waits for none of it.
func (s *supervisor) Pause(context.Context) error {
	s.pausing.Lock()
	defer s.pausing.Unlock()
	p, err := s.pauser()
	if err != nil {
		return err
	}
	ctx, cancel := s.untilForced(pauseTimeout)
	defer cancel()
	if err := p.Pause(ctx); err != nil {
		if !s.forced() { // else it is about to be killed, whatever it does
			s.resumeNow(p)
		}
		return s.pauseError("paused", err)
	}
	fault.Point(fault.SupPaused)
	s.turn(machine.StateRunning, machine.StatePaused)
	return nil
}

// Resume implements control.Supervisor. The VMM is told whatever the state says: somebody else may
// have paused the guest.
func (s *supervisor) Resume(context.Context) error {
	s.pausing.Lock()
	defer s.pausing.Unlock()
	p, err := s.pauser()
	if err != nil {
		return err
	}
	ctx, cancel := s.untilForced(pauseTimeout)
	defer cancel()
	if err := p.Resume(ctx); err != nil {
		return s.pauseError("resumed", err)
	}
	fault.Point(fault.SupResumed)
	s.turn(machine.StatePaused, machine.StateRunning)
	return nil
}

// pauser is the VM of a machine that is up; s.pausing is held.
func (s *supervisor) pauser() (driver.Pauser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.opts.Request.Boot
	switch s.status.State {
	case machine.StateRunning, machine.StatePaused:
	case machine.StateStarting:
		return nil, machine.Errorf("machine.starting", "wait until `mvmctl ls` shows it running", "machine %q is still starting", b.Name)
	default:
		return nil, notRunning(b.Name)
	}
	p, ok := s.vm.(driver.Pauser)
	if !ok {
		return nil, machine.Errorf("backend.pause", "stop it with `mvmctl down "+b.Name+"`", "a machine of the backend %s cannot be paused", b.Driver)
	}
	return p, nil
}

func notRunning(name string) error {
	return machine.Errorf("machine.not_running", "mvmctl up --name "+name+" -d starts it", "machine %q is not running", name)
}

// forced reports whether a forced stop was asked for.
func (s *supervisor) forced() bool {
	select {
	case <-s.killNow:
		return true
	default:
		return false
	}
}

func (s *supervisor) pauseError(what string, err error) error {
	switch {
	case s.forced():
		return notRunning(s.opts.Request.Boot.Name)
	case machine.CodeOf(err) != "":
		return err
	}
	return machine.Errorf("vmm.api", "look at `mvmctl logs --source vmm`", "the machine could not be %s: %w", what, err)
}

// turn changes the state, unless the machine has gone on to another meanwhile.
func (s *supervisor) turn(from, to machine.State) {
	s.update(func(st *machine.Status) {
		if st.State == from {
			st.State = to
		}
	})
}

// untilForced is the context of what is asked of the VMM: it outlives the command that asks, and a
// forced stop ends it, which is not to wait for a VMM that does not answer.
func (s *supervisor) untilForced(limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	go func() {
		select {
		case <-s.killNow:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// resumeNow lets a guest go on as well as that is possible.
func (s *supervisor) resumeNow(p driver.Pauser) {
	ctx, cancel := s.untilForced(pauseTimeout)
	defer cancel()
	s.goOn(ctx, p)
}

func (s *supervisor) goOn(ctx context.Context, p driver.Pauser) {
	if err := p.Resume(ctx); err != nil {
		s.opts.Log.Warn("letting the guest go on", "error", err)
	}
}

// stopPausing is the end of pausing: a guest that stands still goes on, so that it can hear of its
// end, and none is paused any more.
func (s *supervisor) stopPausing(force bool) {
	s.pausing.Lock()
	defer s.pausing.Unlock()
	paused := s.Status().State == machine.StatePaused
	s.update(func(st *machine.Status) { st.State = machine.StateStopping })
	s.mu.Lock()
	p, ok := s.vm.(driver.Pauser)
	s.mu.Unlock()
	switch {
	case !ok || !paused:
	case !force:
		s.resumeNow(p)
	case s.hasVolumes(): // it is to write to them; see flush
		ctx, cancel := context.WithTimeout(context.Background(), flushTime)
		defer cancel()
		s.goOn(ctx, p)
	}
}
