package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/process"
)

// How long Down waits beyond the guest's own grace before it takes the machine down by force.
const (
	defaultGrace = 10 * time.Second
	downMargin   = 90 * time.Second // an emulated guest under load, at every step of the supervisor
	killTime     = 10 * time.Second
	exitKilled   = 128 + 9 // of a program that SIGKILL ended
)

// Down stops a machine. It is idempotent: a stopped machine is success. With Force the VMM is
// killed at once, also when its supervisor hangs.
func (e *Engine) Down(ctx context.Context, name string, o DownOptions) error {
	lock, err := e.Locks.Lock(ctx, name, "down "+name)
	if err != nil {
		return err
	}
	fault.Point(fault.DownLocked)
	rec, err := e.existing(ctx, name)
	if err != nil {
		releaseUnknown(lock, err)
		return err
	}
	defer lock.Release()
	if !e.Locks.Alive(name) {
		return e.heal(ctx, &rec)
	}
	rec.Intent = machine.IntentStopping
	if err := e.Records.Save(rec); err != nil && !o.Force && !cannotWrite(err) {
		return err
	}
	fault.Point(fault.DownIntent)
	if err := e.stopAlive(ctx, rec, o); err != nil {
		return err
	}
	fault.Point(fault.DownStopped)
	if st := e.statusOf(rec); o.Notice != nil && !o.Force && st != nil && st.ExitCode != nil && *st.ExitCode == exitKilled {
		o.Notice(fmt.Sprintf("the program of machine %q did not end within %s and was killed", name, cmp.Or(o.Grace, defaultGrace)))
	}
	if err := e.heal(ctx, &rec); err != nil && !cannotWrite(err) {
		return err
	}
	return nil
}

// cannotWrite reports whether an error only means that nothing can be written down: a machine
// must be stoppable, and its files deletable, on a full or read-only disk too.
func cannotWrite(err error) bool {
	code := machine.CodeOf(err)
	return code == "limit.disk" || code == "state.readonly"
}

// releaseUnknown gives a lock back whose machine turned out not to exist, without leaving a
// lock file for it.
func releaseUnknown(lock Lock, err error) {
	if machine.CodeOf(err) == "machine.not_found" {
		lock.Remove()
		return
	}
	lock.Release()
}

// stopAlive ends a machine whose supervisor is alive, in the caller's lock.
func (e *Engine) stopAlive(ctx context.Context, rec machine.Record, o DownOptions) error {
	grace := o.Grace
	if grace <= 0 {
		grace = defaultGrace
	}
	wait := grace + downMargin
	if o.Force {
		wait = killTime
	}
	err := e.askToStop(ctx, rec, grace, o.Force)
	fault.Point(fault.DownAsked)
	if err == nil {
		dead, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		if err = e.Locks.WaitDead(dead, rec.Name); err == nil {
			return nil
		}
		err = inWords(err, fmt.Sprintf("its supervisor was asked, and has not ended within %s", wait))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !o.Force {
		err = inWords(err, "its supervisor does not answer")
		return machine.Errorf("supervisor.hung", fmt.Sprintf("mvmctl down --force %s", rec.Name), "machine %q did not stop: %w", rec.Name, err)
	}
	return e.killByIdentity(ctx, rec)
}

// inWords is err with words for people in place of "context deadline exceeded".
func inWords(err error, words string) error {
	if _, said := errors.AsType[*late](err); said || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &late{words: words, err: err}
}

// late is a deadline that ran out.
type late struct {
	words string
	err   error
}

func (l *late) Error() string { return l.words }
func (l *late) Unwrap() error { return l.err }

func (e *Engine) askToStop(ctx context.Context, rec machine.Record, grace time.Duration, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	if rec.ID == "" {
		return machine.Errorf("supervisor.lost", "mvmctl rm --force "+rec.Name, "nothing says where the supervisor of %q listens", rec.Name)
	}
	c, err := e.Supervisors.Connect(ctx, e.places(rec).Control())
	if err == nil {
		defer c.Close()
		err = c.Stop(ctx, grace, force)
	}
	if err == nil || !e.Locks.Alive(rec.Name) {
		return nil
	}
	// One that was up and does not listen any more is on its way out: its lock is all that is left,
	// for the moment that it needs to clean up.
	st := e.Records.Status(rec.Name)
	if machine.CodeOf(err) == "supervisor.lost" && ctx.Err() == nil && st != nil && st.Generation == rec.Generation && st.State != machine.StateStarting {
		return nil
	}
	return err
}

// killByIdentity ends supervisor and VMM of a machine that does not answer.
func (e *Engine) killByIdentity(ctx context.Context, rec machine.Record) error {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	st := e.Records.Status(rec.Name)
	if st == nil || st.Generation < rec.Generation {
		// A command that was killed may have started a supervisor this very moment, which has
		// not said its name yet.
		if now, err := e.awaitStatus(ctx, rec, func(machine.Status) bool { return true }); err == nil {
			if st = now; st == nil {
				return nil // it ended by itself
			}
		}
	}
	if st == nil {
		return machine.Errorf("supervisor.hung", "look for its process with `ps`, end it, then try again", "machine %q does not answer and left no status", rec.Name)
	}
	for i, p := range []machine.Process{st.Supervisor, st.VMM} {
		if i == 1 {
			e.thaw(ctx, rec)
		}
		if err := process.Kill(ctx, p); err != nil && !errors.Is(err, process.ErrGone) {
			return err
		}
	}
	return e.Locks.WaitDead(ctx, rec.Name)
}

// Remove deletes a machine and everything of it. A running one is refused unless force is set.
func (e *Engine) Remove(ctx context.Context, name string, force bool) error {
	lock, err := e.Locks.Lock(ctx, name, "rm "+name)
	if err != nil {
		return err
	}
	rec, err := e.Records.Load(name)
	switch {
	case machine.CodeOf(err) == "state.incomplete", machine.CodeOf(err) == "state.corrupt" && force:
		rec = machine.Record{Name: name, ID: e.idOf(name)}
	case err != nil:
		releaseUnknown(lock, err)
		return err
	}
	if e.Locks.Alive(name) {
		if !force {
			lock.Release()
			return machine.Errorf("machine.running", fmt.Sprintf("mvmctl down %s, or mvmctl rm --force %s", name, name), "machine %q is running", name)
		}
		if err := e.stopAlive(ctx, rec, DownOptions{Force: true}); err != nil {
			lock.Release()
			return err
		}
	}
	if err := e.discard(ctx, rec, lock, force); err != nil {
		lock.Release()
		return err
	}
	return nil
}

// idOf returns the ID of a machine without a record that can be read, from what its last start
// left, or "".
func (e *Engine) idOf(name string) string {
	data, err := os.ReadFile(e.Paths.Machine(name, "").Boot())
	if err != nil {
		return ""
	}
	var b machine.Boot
	if json.Unmarshal(data, &b) != nil || b.Name != name || !machine.ValidID(b.ID) {
		return ""
	}
	return b.ID
}

// discard deletes a machine that is not alive, and its lock. With force it does so even when the
// backend, which may keep something of it, cannot be asked.
func (e *Engine) discard(ctx context.Context, rec machine.Record, lock Lock, force bool) error {
	if err := e.sweep(ctx, rec); err != nil && !cannotWrite(err) {
		return err
	}
	if rec.ID != "" {
		rec.Intent = machine.IntentRemoving
		if err := e.Records.Save(rec); err != nil && machine.CodeOf(err) != "limit.disk" {
			return err
		}
	}
	fault.Point(fault.RemoveIntent)
	if err := e.removeKept(ctx, rec); err != nil {
		if !force {
			return err
		}
		e.Log.Warn("removing what the backend keeps of a machine", "machine", rec.Name, "error", err)
		if f, ok := e.driverOf(rec).(driver.Forgetter); ok {
			if err := f.Forget(rec.ID, e.places(rec).Dir); err != nil {
				e.Log.Warn("noting what the backend keeps of a machine", "machine", rec.Name, "error", err)
			}
		}
	}
	if err := e.Records.Delete(rec.Name); err != nil {
		return err
	}
	lock.Remove()
	return nil
}

// removeKept deletes what a machine's backend keeps of it outside of its folder. When nothing says
// which backend that was, all are asked, and one that cannot answer has nothing.
func (e *Engine) removeKept(ctx context.Context, rec machine.Record) error {
	if rec.ID == "" {
		return nil
	}
	for _, d := range e.Drivers {
		r, ok := d.(driver.Remover)
		if !ok || rec.Driver != "" && rec.Driver != d.Name() {
			continue
		}
		if err := r.Remove(ctx, rec.ID, e.places(rec).Dir); err != nil && (rec.Driver != "" || !errors.Is(err, driver.ErrUnavailable)) {
			return err
		}
	}
	return nil
}

// driverOf returns the driver that a machine runs on, nil when it has none or this program has not.
func (e *Engine) driverOf(rec machine.Record) driver.Driver {
	for _, d := range e.Drivers {
		if d.Name() == rec.Driver {
			return d
		}
	}
	return nil
}

// keptElsewhere reports whether a machine's writes are with its backend and not on its upper disk.
func (e *Engine) keptElsewhere(rec machine.Record) bool {
	_, ok := e.driverOf(rec).(driver.Remover)
	return ok
}
