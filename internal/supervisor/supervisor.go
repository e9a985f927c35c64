package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/control"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/forward"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/process"
)

// supervisor is the state of Run.
type supervisor struct {
	opts     Options
	logs     *logs
	forwards *forward.Set
	stopping chan control.StopRequest // first stop request; later ones only shorten the wait
	killNow  chan struct{}            // a stop request with Force
	killOnce sync.Once

	pausing sync.Mutex // held while the guest is being paused, or goes on

	mu       sync.Mutex
	vm       driver.VM
	status   machine.Status
	guest    *guest
	last     time.Time // of the last phase
	eventsOn bool
}

// Run starts the machine of o.Request and returns when it is over and everything it made is
// gone. The returned error is what ended a machine nobody asked to end; it has been saved in
// the status by then. Cancelling ctx stops the machine as a stop request would.
func Run(ctx context.Context, o Options) error {
	s := &supervisor{opts: o, stopping: make(chan control.StopRequest, 1), killNow: make(chan struct{}), eventsOn: true, last: time.Now()}
	s.status = machine.Status{
		State: machine.StateStarting, Generation: o.Request.Boot.Generation, Started: time.Now(),
		Driver: o.Request.Boot.Driver, Isolation: o.Request.Isolation, Version: o.Build,
	}
	s.status.Supervisor, _ = process.Identify(os.Getpid())
	fault.Point(fault.SupStarted)
	err := s.run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // told to stop before it was up
	}
	s.finish(err)
	return err
}

func (s *supervisor) run(ctx context.Context) error {
	if err := s.save(); err != nil {
		return err
	}
	var err error
	if s.logs, err = openLogs(s.opts.Places); err != nil {
		return err
	}
	if err := s.listen(ctx); err != nil {
		return err
	}
	server, err := control.Listen(s.opts.Places.Control(), s, s.opts.Log)
	if err != nil {
		return err
	}
	defer server.Close()
	go func() {
		if err := server.Serve(); err != nil {
			s.opts.Log.Error("control socket", "error", err)
		}
	}()
	fault.Point(fault.SupListening)
	s.phase("supervisor")

	vm, err := s.opts.Driver.Start(ctx, s.opts.Request.Boot, driver.Output{Console: s.logs.consoleOut(), VMM: s.logs.vmmOut(), Trouble: s.trouble, Began: s.began})
	if err != nil {
		return err
	}
	gone := make(chan error, 1)
	go func() { gone <- vm.Wait() }()
	if p, ok := vm.(driver.ProcessOwner); ok && p.Pid() != s.Status().VMM.Pid {
		s.noteVMM(p.Pid())
	}
	fault.Point(fault.SupVMM)
	s.phase("vmm")
	if alone(vm) {
		return s.liveAlone(ctx, vm, gone)
	}
	return s.live(ctx, vm, gone)
}

// began is the first that is heard of the VMM.
func (s *supervisor) began(pid int) {
	s.noteVMM(pid)
	fault.Point(fault.SupBegan)
}

// noteVMM writes down which process the VMM is.
func (s *supervisor) noteVMM(pid int) {
	id, err := process.Identify(pid)
	if err != nil {
		s.opts.Log.Warn("identifying the VMM", "error", err)
	}
	s.update(func(st *machine.Status) { st.VMM = id })
}

// live takes a started VMM to its end.
func (s *supervisor) live(ctx context.Context, vm driver.VM, gone chan error) error {
	g := newGuest(s.opts, vm, s.logs.guest, s.mainExited)
	s.mu.Lock()
	s.guest, s.vm = g, vm
	s.mu.Unlock()

	bootCtx, cancelBoot := context.WithTimeout(ctx, s.bootTimeout())
	defer cancelBoot()
	connected := make(chan error, 1)
	var noMain *agentproto.Error // valid once connected is received from
	keepCtx, stopKeeping := context.WithCancel(context.Background())
	defer stopKeeping()
	var keeping sync.WaitGroup
	keeping.Go(func() {
		c, err := g.connect(bootCtx)
		if err == nil {
			noMain = c.Hello().MainError
		}
		connected <- err
		if err == nil {
			g.keep(keepCtx, c)
		}
	})
	// Whatever ends the machine, the VMM is gone and the connection's goroutines have ended
	// before the logs are closed.
	defer func() {
		cancelBoot()
		stopKeeping()
		keeping.Wait()
	}()

	select {
	case err := <-connected:
		if err != nil {
			return s.bootFailed(ctx, vm, gone, err)
		}
	case err := <-gone:
		return s.diedEarly(err)
	case req := <-s.stopping:
		cancelBoot()
		return s.stop(vm, gone, req)
	}
	if noMain != nil {
		return errors.Join(mainFailure(noMain), s.stop(vm, gone, control.StopRequest{GraceMS: defaultGrace.Milliseconds()}))
	}
	fault.Point(fault.SupReady)
	s.phase("agent")
	return s.untilEnd(ctx, vm, gone)
}

// untilEnd says that the machine is up, and takes it to its end.
func (s *supervisor) untilEnd(ctx context.Context, vm driver.VM, gone chan error) error {
	s.update(func(st *machine.Status) { st.State, st.Ready = machine.StateRunning, time.Now() })
	status := s.Status()
	s.tell(Event{Type: EventReady, Status: &status})
	s.closeEvents()

	var rebooted chan struct{}
	if s.guest != nil {
		rebooted = s.guest.rebooted
	}
	select {
	case <-rebooted:
		return s.bootedAgain(vm, gone)
	case err := <-gone:
		return s.endedByItself(err)
	case req := <-s.stopping:
		return s.stop(vm, gone, req)
	case <-ctx.Done():
		return s.stop(vm, gone, control.StopRequest{GraceMS: defaultGrace.Milliseconds()})
	}
}

// bootedAgain ends a machine whose guest has booted by itself in a VMM that goes on over a reset, as a
// reboot or a panic of its kernel brings about: with the others it has ended by then.
func (s *supervisor) bootedAgain(vm driver.VM, gone chan error) error {
	if err := vm.Kill(); err != nil {
		return fmt.Errorf("killing the VMM: %w", err)
	}
	s.ended(<-gone)
	return s.withConsole(machine.Errorf("guest.rebooted", "`mvmctl up` starts it again; "+printedBelow, "the guest booted again by itself, after a reboot or a panic of its kernel"))
}

func (s *supervisor) bootTimeout() time.Duration {
	if t := s.opts.Request.Boot.Timeout; t > 0 {
		return t
	}
	return machine.DefaultTimeout
}

// bootFailed ends a machine whose agent never answered.
func (s *supervisor) bootFailed(ctx context.Context, vm driver.VM, gone chan error, cause error) error {
	stopped := ctx.Err() != nil
	// A VMM that died takes the connection with it: its own words are the better cause.
	select {
	case err := <-gone:
		if !stopped {
			return s.diedEarly(err)
		}
		return nil
	default:
	}
	if err := vm.Kill(); err != nil {
		s.opts.Log.Error("killing the VMM", "error", err)
	}
	s.ended(<-gone)
	if stopped {
		return nil
	}
	if known, ok := errors.AsType[*machine.Error](cause); ok {
		return s.withConsole(known)
	}
	e := machine.Errorf(agentproto.CodeTimeout, "give it longer with --timeout; "+printedBelow,
		"the guest agent did not answer within %s", s.bootTimeout())
	if pe, late := errors.AsType[*agentproto.Error](cause); !errors.Is(cause, context.DeadlineExceeded) && (!late || pe.Code != agentproto.CodeTimeout) {
		e.Message += ": " + cause.Error()
	}
	e.Err = cause
	e.Exit = machine.ExitTimeout
	return s.withConsole(e)
}

// diedEarly explains a VMM that ended before the agent answered.
func (s *supervisor) diedEarly(err error) error {
	var known *machine.Error
	switch {
	case errors.As(err, &known):
		return s.withConsole(known)
	case err != nil:
		return s.withConsole(machine.Errorf("boot.vmm_died", printedBelow, "the VMM ended before the guest was up: %w", err))
	}
	return s.withConsole(machine.Errorf("boot.powered_off", printedBelow, "the guest powered off before its agent answered"))
}

// endedByItself explains a machine that ended while it was running.
func (s *supervisor) endedByItself(err error) error {
	if err == nil {
		s.update(func(st *machine.Status) {
			if st.Reason == "" {
				st.Reason = "powered off from inside"
			}
		})
		return nil
	}
	return s.withConsole(machine.Errorf("vm.exited", "`mvmctl up` starts it again", "the VMM ended: %w", err))
}

// mainExited is called when the main program has ended: its exit code is the machine's.
func (s *supervisor) mainExited(code int) {
	s.update(func(st *machine.Status) {
		st.ExitCode = &code
		st.Reason = fmt.Sprintf("its program ended with exit code %d", code)
	})
	s.Stop(control.StopRequest{GraceMS: defaultGrace.Milliseconds()})
}

// finish cleans up and says how it ended. It runs on every path out of run.
func (s *supervisor) finish(err error) {
	fault.Point(fault.SupVMMGone)
	if s.forwards != nil {
		s.forwards.Close()
	}
	if s.logs != nil {
		s.logs.close()
	}
	if e := os.RemoveAll(s.opts.Places.Runtime); e != nil {
		s.opts.Log.Error("removing the runtime folder", "error", e)
	}
	// The config drive holds the guest's private key of this generation.
	for _, drive := range s.opts.Places.PerBoot() {
		if e := os.Remove(drive); e != nil && !errors.Is(e, os.ErrNotExist) {
			s.opts.Log.Error("removing a drive of this boot", "error", e)
		}
	}
	fault.Point(fault.SupCleaned)
	var failure *machine.Failure
	if err != nil {
		if machine.CodeOf(err) == "" {
			err = machine.Errorf("supervisor.failed", "look at `mvmctl logs --source supervisor`", "%w", err)
		}
		f := machine.FailureOf(err)
		failure = &f
		s.opts.Log.Error("machine failed", "code", failure.Code, "error", err)
	}
	s.update(func(st *machine.Status) {
		st.State, st.Finished, st.Ports, st.VMM = machine.StateExited, time.Now(), nil, machine.Process{}
		if failure != nil {
			st.State, st.Failure, st.Reason = machine.StateFailed, failure, failure.Message
		}
	})
	if failure != nil {
		s.tell(Event{Type: EventFailed, Failure: failure})
	}
	s.closeEvents()
}

// phase ends the current phase of the start and tells who waits for it.
func (s *supervisor) phase(name string) {
	now := time.Now()
	p := machine.Phase{Name: name, Duration: now.Sub(s.last)}
	s.last = now
	s.update(func(st *machine.Status) { st.Phases = append(st.Phases, p) })
	s.tell(Event{Type: EventPhase, Phase: &p})
}

func (s *supervisor) tell(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.eventsOn {
		return
	}
	if err := json.NewEncoder(s.opts.Events).Encode(e); err != nil && !errors.Is(err, syscall.EPIPE) {
		s.opts.Log.Debug("telling the starter", "error", err)
	}
}

func (s *supervisor) closeEvents() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eventsOn {
		s.eventsOn = false
		_ = s.opts.Events.Close()
	}
}

// trouble notes what the VMM says goes wrong with a machine that goes on.
func (s *supervisor) trouble(text string) {
	if text == "" {
		s.opts.Log.Info("the trouble is over")
	} else {
		s.opts.Log.Warn("trouble", "problem", text)
	}
	s.update(func(st *machine.Status) { st.Problem = text })
}

// update changes the status and saves it. A status that cannot be saved (a full disk) must
// not stop a machine that runs.
func (s *supervisor) update(change func(*machine.Status)) {
	s.mu.Lock()
	change(&s.status)
	s.mu.Unlock()
	if err := s.save(); err != nil {
		s.opts.Log.Error("saving the status", "error", err)
	}
}

func (s *supervisor) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opts.SaveStatus(s.status)
}

// Status implements control.Supervisor.
func (s *supervisor) Status() machine.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Stop implements control.Supervisor.
func (s *supervisor) Stop(r control.StopRequest) {
	if r.Force {
		s.killOnce.Do(func() { close(s.killNow) })
	}
	select {
	case s.stopping <- r:
	default: // under way already
	}
}

// Agent implements control.Supervisor.
func (s *supervisor) Agent() (http.RoundTripper, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.NoAgent {
		return nil, machine.ErrNoAgent()
	}
	if s.guest == nil {
		return nil, machine.Errorf("agent.unready", "wait until `mvmctl ls` shows it running", "the machine is still starting")
	}
	if name := s.opts.Request.Boot.Name; s.status.State == machine.StatePaused {
		return nil, machine.Errorf("machine.paused", "mvmctl resume "+name, "machine %q is paused", name)
	}
	return s.guest, nil
}
