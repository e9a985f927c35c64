package supervisor

import (
	"context"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// pauseTimeout bounds how long a VMM may take to pause its guest or let it go on.
const pauseTimeout = 15 * time.Second

// Pause implements control.Supervisor. A pause that fails half-way is taken back: nobody would know
// of a guest that stands still.
func (s *supervisor) Pause(ctx context.Context) error {
	s.pausing.Lock()
	defer s.pausing.Unlock()
	p, err := s.pauser()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pauseTimeout)
	defer cancel()
	if err := p.Pause(ctx); err != nil {
		s.resumeNow(p, pauseTimeout)
		return s.pauseError("paused", err)
	}
	s.turn(machine.StateRunning, machine.StatePaused)
	return nil
}

// Resume implements control.Supervisor. The VMM is told whatever the state says: somebody else may
// have paused the guest.
func (s *supervisor) Resume(ctx context.Context) error {
	s.pausing.Lock()
	defer s.pausing.Unlock()
	p, err := s.pauser()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pauseTimeout)
	defer cancel()
	if err := p.Resume(ctx); err != nil {
		return s.pauseError("resumed", err)
	}
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
		return nil, machine.Errorf("machine.not_running", "mvmctl up --name "+b.Name+" -d starts it", "machine %q is not running", b.Name)
	}
	p, ok := s.vm.(driver.Pauser)
	if !ok {
		return nil, machine.Errorf("backend.pause", "stop it with `mvmctl down "+b.Name+"`", "a machine of the backend %s cannot be paused", b.Driver)
	}
	return p, nil
}

func (s *supervisor) pauseError(what string, err error) error {
	if machine.CodeOf(err) != "" {
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

// resumeNow lets a guest go on as well as that is possible.
func (s *supervisor) resumeNow(p driver.Pauser, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
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
		s.resumeNow(p, pauseTimeout)
	case s.hasVolumes(): // it is to write to them; see flush
		s.resumeNow(p, flushTime)
	}
}
