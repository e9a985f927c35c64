package supervisor

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/control"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// hangingVM is a VMM that takes a request to stand still, or to go on, and does not answer.
type hangingVM struct {
	stubVM
	asked chan struct{}
}

func (v *hangingVM) Pause(ctx context.Context) error { return v.Resume(ctx) }

func (v *hangingVM) Resume(ctx context.Context) error {
	v.asked <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

// A forced stop does not wait for a VMM that hangs over a pause or a resume, nor for one that hangs
// when a paused machine is to go on to hear of its end.
func TestForcedStopOfAVMMThatHangs(t *testing.T) {
	for name, tt := range map[string]struct {
		state  machine.State
		ask    func(s *supervisor) error
		before control.StopRequest // the stop that is under way
	}{
		"over a pause":  {machine.StateRunning, func(s *supervisor) error { return s.Pause(context.Background()) }, control.StopRequest{Force: true}},
		"over a resume": {machine.StatePaused, func(s *supervisor) error { return s.Resume(context.Background()) }, control.StopRequest{Force: true}},
		"over a stop":   {machine.StatePaused, nil, control.StopRequest{GraceMS: 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vm := &hangingVM{stubVM: stubVM{gone: make(chan error, 1)}, asked: make(chan struct{}, 9)}
			s := &supervisor{killNow: make(chan struct{}), stopping: make(chan control.StopRequest, 1), vm: vm, opts: Options{
				Request: Request{Boot: machine.Boot{Name: "m"}}, Log: slog.New(slog.DiscardHandler), SaveStatus: func(machine.Status) error { return nil },
			}}
			s.status.State = tt.state
			asked := make(chan error, 1)
			if tt.ask != nil {
				go func() { asked <- tt.ask(s) }()
				<-vm.asked
				s.Stop(tt.before)
			}
			stopped := make(chan error, 1)
			go func() { stopped <- s.stop(vm, vm.gone, tt.before) }()
			if tt.ask == nil {
				<-vm.asked
				s.Stop(control.StopRequest{Force: true})
			}
			select {
			case err := <-stopped:
				if err != nil || !vm.killed {
					t.Errorf("stop: %v, killed: %v", err, vm.killed)
				}
			case <-time.After(pauseTimeout / 2):
				t.Fatal("a forced stop waits for a VMM that hangs")
			}
			if tt.ask != nil {
				if err := <-asked; machine.CodeOf(err) != "machine.not_running" {
					t.Errorf("what hung says: %v", err)
				}
			}
		})
	}
}
