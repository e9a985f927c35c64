package engine

import (
	"context"
	"errors"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// pauseTime is how long a supervisor may take to pause its machine or let it go on.
const pauseTime = 40 * time.Second

// Pause makes a running machine stand still. One that does so already is success.
func (e *Engine) Pause(ctx context.Context, name string) error {
	return e.pausing(ctx, name, Control.Pause)
}

// Resume lets a paused machine go on. One that runs is success, and is told again: somebody may have
// paused it by other means.
func (e *Engine) Resume(ctx context.Context, name string) error {
	return e.pausing(ctx, name, Control.Resume)
}

func (e *Engine) pausing(ctx context.Context, name string, do func(Control, context.Context) error) error {
	rec, err := e.running(name)
	if err != nil && machine.CodeOf(err) != "machine.paused" {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, pauseTime)
	defer cancel()
	c, err := e.Supervisors.Connect(limited, e.places(rec).Control())
	if err == nil {
		defer c.Close()
		err = do(c, limited)
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return machine.Errorf("supervisor.hung", "mvmctl down --force "+name, "the supervisor of machine %q does not answer", name)
	}
	return err
}
