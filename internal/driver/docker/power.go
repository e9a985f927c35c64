package docker

import (
	"context"
	"errors"

	"github.com/mvmctl/mvmctl/internal/process"
)

// Shutdown implements driver.VM: the power button of a container is SIGTERM to its first process.
func (v *vm) Shutdown(ctx context.Context) error { return v.signal(ctx, "SIGTERM") }

// Kill implements driver.VM.
func (v *vm) Kill() error {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	err := v.signal(ctx, "SIGKILL")
	if err != nil && v.endProcess() { // an engine that hangs, which will not tell either
		v.giveUp()
		err = nil
	}
	return err
}

// Pause implements driver.Pauser.
func (v *vm) Pause(ctx context.Context) error { return v.standStill(ctx, true) }

// Resume implements driver.Pauser.
func (v *vm) Resume(ctx context.Context) error { return v.standStill(ctx, false) }

func (v *vm) standStill(ctx context.Context, pause bool) error {
	select {
	case <-v.ended:
		return errEnded
	default:
	}
	if pause { // also when it is not known whether the engine did
		v.setPaused(true)
	}
	err := v.c.turn(ctx, v.id, pause)
	if err == nil {
		v.setPaused(pause)
	}
	return err
}

func (v *vm) setPaused(paused bool) {
	v.mu.Lock()
	v.paused = paused
	v.mu.Unlock()
}

// endProcess ends the container's first process without its engine, and reports whether it is gone.
func (v *vm) endProcess() bool {
	if v.process.Pid == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	err := process.Kill(ctx, v.process)
	return err == nil || errors.Is(err, process.ErrGone)
}

func (v *vm) signal(ctx context.Context, signal string) error {
	v.mu.Lock()
	select {
	case <-v.ended:
		v.mu.Unlock()
		return nil
	default:
	}
	v.killed = true
	paused := v.paused
	v.mu.Unlock()
	if paused { // a frozen process takes no signal, and some engines refuse to send it one
		if err := v.standStill(ctx, false); err != nil {
			return err
		}
	}
	return v.c.kill(ctx, v.id, signal)
}
