package engine

import (
	"context"

	"github.com/fsnotify/fsnotify"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// waitReady returns once a machine that somebody else's command is starting runs, or with the
// reason why it does not. The supervisor's status file is watched, not polled.
func (e *Engine) waitReady(ctx context.Context, rec machine.Record) (machine.Status, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return machine.Status{}, machine.Errorf("machine.starting", "wait until `mvmctl ls` shows it running", "watching machine %q: %w", rec.Name, err)
	}
	defer func() { _ = w.Close() }()
	if err := w.Add(e.places(rec).Dir); err != nil {
		return machine.Status{}, machine.Errorf("machine.starting", "wait until `mvmctl ls` shows it running", "watching machine %q: %w", rec.Name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		if e.Locks.WaitDead(ctx, rec.Name) == nil {
			close(ended)
		}
	}()
	for {
		st := e.Records.Status(rec.Name)
		if st != nil && st.Generation == rec.Generation && st.State == machine.StateRunning {
			return *st, nil
		}
		select {
		case <-ctx.Done():
			return machine.Status{}, ctx.Err()
		case <-ended:
			if st := e.Records.Status(rec.Name); st != nil && st.Failure != nil {
				return *st, st.Failure.Err()
			}
			return machine.Status{}, machine.Errorf("machine.not_running", "mvmctl up --name "+rec.Name+" -d starts it", "machine %q ended while it was starting", rec.Name)
		case <-w.Events:
		case err := <-w.Errors:
			return machine.Status{}, machine.Errorf("machine.starting", "wait until `mvmctl ls` shows it running", "watching machine %q: %w", rec.Name, err)
		}
	}
}
