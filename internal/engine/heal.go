package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
	"github.com/mvmctl/mvmctl/internal/process"
)

// heal puts a machine without a living supervisor right: processes and sockets that a killed
// supervisor left are ended and removed, the status says what happened, and an intent that a
// killed command left is settled. The caller holds the machine's lock.
func (e *Engine) heal(ctx context.Context, rec *machine.Record) error {
	if err := e.sweep(ctx, *rec); err != nil {
		return err
	}
	if rec.Intent == machine.IntentNone {
		return nil
	}
	rec.Intent = machine.IntentNone
	return e.Records.Save(*rec)
}

// sweep ends and removes what a supervisor that died left behind, and then corrects the status:
// on a full disk everything is done but the last.
func (e *Engine) sweep(ctx context.Context, rec machine.Record) error {
	st := e.Records.Status(rec.Name)
	died := st != nil && st.State.Live()
	if died {
		ctx, cancel := context.WithTimeout(ctx, killTime)
		defer cancel()
		e.thaw(ctx, rec)
		fault.Point(fault.HealThawed)
		if err := process.Kill(ctx, st.VMM); err != nil && !errors.Is(err, process.ErrGone) {
			return fmt.Errorf("ending what is left of machine %s: %w", rec.Name, err)
		}
	}
	p := e.places(rec)
	if rec.ID != "" {
		// With a plain file in the place of the runtime directory there is nothing to remove.
		if err := os.RemoveAll(p.Runtime); err != nil && !errors.Is(err, syscall.ENOTDIR) {
			return fmt.Errorf("removing %s: %w", p.Runtime, err)
		}
	}
	for _, drive := range p.PerBoot() {
		if err := os.Remove(drive); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return paths.WriteError("removing "+drive, err)
		}
	}
	if !died {
		return nil
	}
	st.Reason = "its supervisor was killed"
	if boot, err := process.BootID(); err == nil && st.Supervisor.BootID != "" && st.Supervisor.BootID != boot {
		st.Reason = "the host was rebooted"
	}
	st.State, st.Finished, st.Ports, st.VMM = machine.StateFailed, time.Now(), nil, machine.Process{}
	return e.Records.SaveStatus(rec.Name, *st)
}

// thaw lets a machine go on that stands still, where it could not be ended otherwise. Its status may
// not say so yet, and its owner may have paused it behind our back.
func (e *Engine) thaw(ctx context.Context, rec machine.Record) {
	t, ok := e.driverOf(rec).(driver.Thawer)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, killTime/2)
	defer cancel()
	if err := t.Thaw(ctx, rec.ID, e.places(rec).Dir); err != nil {
		e.Log.Warn("letting a paused machine go on to end it", "machine", rec.Name, "error", err)
	}
}

// Heal puts all machines right that need it and are not in use, and returns their names. It is
// what `doctor --fix` does, and what commands that change something do on their way.
func (e *Engine) Heal(ctx context.Context) []string {
	return e.healOthers(ctx, "")
}

// healOthers heals every machine but the named one. One that cannot be healed does not stop
// the others.
func (e *Engine) healOthers(ctx context.Context, except string) []string {
	var healed []string
	names, err := e.Records.Names()
	if err != nil {
		e.Log.Warn("cleaning up", "error", err)
	}
	for _, name := range names {
		if name != except && e.needsHealing(name) && e.healOne(ctx, name) {
			healed = append(healed, name)
		}
	}
	return healed
}

// needsHealing looks without a lock, cheaply; healOne looks again.
func (e *Engine) needsHealing(name string) bool {
	if e.Locks.Alive(name) {
		return false
	}
	rec, err := e.Records.Load(name)
	if err != nil {
		return machine.CodeOf(err) == "state.incomplete"
	}
	st := e.Records.Status(name)
	return rec.Intent != machine.IntentNone || rec.Spec.Ephemeral || (st != nil && st.State.Live())
}

func (e *Engine) healOne(ctx context.Context, name string) bool {
	lock := e.Locks.TryLock(name, "clean-up")
	if lock == nil {
		return false
	}
	rec, err := e.Records.Load(name)
	incomplete := machine.CodeOf(err) == "state.incomplete"
	if incomplete {
		rec, err = machine.Record{Name: name}, nil
	}
	if err != nil || e.Locks.Alive(name) {
		lock.Release()
		return false
	}
	if incomplete || rec.Spec.Ephemeral || rec.Intent == machine.IntentRemoving {
		if err := e.discard(ctx, rec, lock, false); err != nil {
			e.Log.Warn("cleaning up", "machine", name, "error", err)
			lock.Release()
			return false
		}
		return true
	}
	defer lock.Release()
	if err := e.heal(ctx, &rec); err != nil {
		e.Log.Warn("cleaning up", "machine", name, "error", err)
		return false
	}
	return true
}

// RemoveEnded removes an ephemeral machine whose supervisor has just ended, unless somebody
// else is at work on it or has started it again. The supervisor's process calls it last. A
// machine with an attached command is left to the command that waits for its end.
// release gives up the lock that proves the supervisor alive.
func (e *Engine) RemoveEnded(ctx context.Context, name string, generation uint64, release func()) {
	rec, err := e.Records.Load(name)
	if err != nil || !rec.Spec.Ephemeral || rec.Spec.Attach || rec.Generation != generation {
		return
	}
	release()
	e.healOne(ctx, name)
}
