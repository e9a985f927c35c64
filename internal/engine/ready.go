package engine

import (
	"context"

	"github.com/fsnotify/fsnotify"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// waitReady returns once a machine that somebody else's command is starting runs, or with the
// reason why it does not.
func (e *Engine) waitReady(ctx context.Context, rec machine.Record) (machine.Status, error) {
	st, err := e.awaitStatus(ctx, rec, func(st machine.Status) bool { return st.State == machine.StateRunning })
	switch {
	case err == nil && st != nil:
		return *st, nil
	case err == nil:
		if st := e.Records.Status(rec.Name); st != nil && st.Failure != nil {
			return *st, st.Failure.Err()
		}
		return machine.Status{}, machine.Errorf("machine.not_running", "mvmctl up --name "+rec.Name+" -d starts it", "machine %q ended while it was starting", rec.Name)
	case ctx.Err() != nil:
		return machine.Status{}, ctx.Err()
	}
	return machine.Status{}, machine.Errorf("machine.starting", "wait until `mvmctl ls` shows it running", "watching machine %q: %w", rec.Name, err)
}

// awaitStatus returns the first status of this boot that will do, or nil when the supervisor has
// ended without one. The supervisor's status file is watched, not polled.
func (e *Engine) awaitStatus(ctx context.Context, rec machine.Record, enough func(machine.Status) bool) (*machine.Status, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Close() }()
	if err := w.Add(e.places(rec).Dir); err != nil {
		return nil, err
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
		if st := e.Records.Status(rec.Name); st != nil && st.Generation == rec.Generation && enough(*st) {
			return st, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ended:
			return nil, nil
		case <-w.Events:
		case err := <-w.Errors:
			return nil, err
		}
	}
}
