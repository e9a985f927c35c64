package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// undoTime bounds the clean-up after a start that failed or was interrupted.
const undoTime = 30 * time.Second

// Up starts a machine: a new one, or one that exists and is stopped. It is idempotent: a
// machine that runs as asked is left alone. When it fails or ctx ends, what it made is gone
// again. Not detached, it runs the machine's program with the caller's streams and returns its
// exit code; cancelling ctx then stops the machine.
func (e *Engine) Up(ctx context.Context, spec machine.Spec, o UpOptions) (UpResult, error) {
	if err := spec.Check(); err != nil {
		return UpResult{}, err
	}
	spec.Driver = e.BackendName(spec.Driver)
	e.healOthers(ctx, spec.Name)
	rec, res, err := e.start(ctx, spec, o)
	if err != nil {
		return res, err
	}
	if o.Started != nil {
		o.Started(res)
	}
	if o.Detach || res.Already {
		return res, nil
	}
	res.ExitCode, err = e.foreground(ctx, rec, o)
	return res, err
}

// start does everything up to "the agent answers", under the machine's lock.
func (e *Engine) start(ctx context.Context, spec machine.Spec, o UpOptions) (machine.Record, UpResult, error) {
	watch := newStopwatch(o.Progress)
	lock, err := e.lockNamed(ctx, &spec, o.Detach)
	if err != nil {
		return machine.Record{}, UpResult{}, err
	}
	fault.Point(fault.UpLocked)
	if err := e.letStop(ctx, spec.Name); err != nil {
		lock.Release()
		return machine.Record{}, UpResult{}, err
	}
	before, rec, err := e.recordFor(ctx, spec, o.Unseal)
	if err != nil {
		releaseUnknown(lock, err)
		return machine.Record{}, UpResult{}, err
	}
	if e.Locks.Alive(rec.Name) {
		defer lock.Release()
		res, err := e.already(ctx, rec, spec, o)
		return rec, res, err
	}
	res, err := e.boot(ctx, &rec, watch, o)
	if err != nil {
		e.undo(before, rec, lock)
		err = e.namePortHolder(err, rec.Spec.Ports)
		var known *machine.Error
		if before == nil && errors.As(err, &known) {
			known.Log = "" // it went with the machine; what matters of it is in Detail
		}
		return machine.Record{}, UpResult{}, err
	}
	lock.Release()
	return rec, res, nil
}

// lockNamed takes the machine's lock, finding a free name first when there is none. Another
// command may find the same one: whoever gets the lock second looks for another.
func (e *Engine) lockNamed(ctx context.Context, spec *machine.Spec, detach bool) (Lock, error) {
	if spec.Name != "" {
		return e.Locks.Lock(ctx, spec.Name, "up "+spec.Name)
	}
	spec.Ephemeral = spec.Ephemeral || !detach
	free := func(n string) bool {
		_, err := e.Records.Load(n)
		return machine.CodeOf(err) == "machine.not_found"
	}
	for {
		spec.Name = machine.NewName(func(n string) bool { return !free(n) })
		lock, err := e.Locks.Lock(ctx, spec.Name, "up "+spec.Name)
		if err != nil || free(spec.Name) {
			return lock, err
		}
		lock.Release()
	}
}

// letStop waits for a machine that is on its way out, because its program ended or somebody
// stopped it, so that it can be started again.
func (e *Engine) letStop(ctx context.Context, name string) error {
	st := e.Records.Status(name)
	if st == nil || st.State == machine.StateStarting || st.State == machine.StateRunning || st.State == machine.StatePaused || !e.Locks.Alive(name) {
		return nil
	}
	if rec, err := e.Records.Load(name); err == nil && st.Generation < rec.Generation {
		return nil // an older word: a new supervisor has just begun
	}
	end, cancel := context.WithTimeout(ctx, defaultGrace+downMargin)
	defer cancel()
	err := e.Locks.WaitDead(end, name)
	if err != nil && ctx.Err() == nil {
		return machine.Errorf("supervisor.hung", "mvmctl down --force "+name, "machine %q is stopping and does not come to an end: %w", name, err)
	}
	return err
}

// backendOf chooses the backend of a machine that is to be started: the one it was made on or that
// was asked for, the one that keeps its volumes, or the best that has what it needs.
func (e *Engine) backendOf(ctx context.Context, rec machine.Record) (driver.Driver, driver.Capabilities, error) {
	want := rec.Spec.Driver
	if want == "" {
		want = rec.Driver // a machine stays on the backend it was made on
	}
	needed := needs(rec.Spec)
	if want == "" && len(rec.Spec.Volumes) > 0 {
		keeper, images := e.whoHasVolumes(rec.Spec)
		if want = keeper; images {
			needed = append(needed, driver.FeatureImages)
		}
	}
	want, err := e.backendFor(rec.Spec, want)
	if err != nil {
		return nil, driver.Capabilities{}, err
	}
	return e.choose(ctx, want, rec.Spec.Require, needed)
}

// boot takes a stopped machine to "the agent answers".
func (e *Engine) boot(ctx context.Context, rec *machine.Record, watch *stopwatch, o UpOptions) (UpResult, error) {
	if err := e.places(*rec).CheckSocket(); err != nil {
		return UpResult{}, err
	}
	watch.begin("choosing a backend")
	d, caps, err := e.backendOf(ctx, *rec)
	if err != nil {
		return UpResult{}, err
	}
	if caps.MaxCPUs > 0 && rec.Spec.CPUs > caps.MaxCPUs {
		return UpResult{}, machine.Usagef("input.range", fmt.Sprintf("use --cpus %d or less", caps.MaxCPUs), "%s runs at most %d CPUs here", d.Name(), caps.MaxCPUs)
	}
	rec.Driver, rec.Isolation = d.Name(), string(caps.Isolation)
	rec.Generation++
	rec.Intent = machine.IntentStarting
	if err := e.Records.Save(*rec); err != nil {
		return UpResult{}, err
	}
	fault.Point(fault.UpIntent)
	watch.lap("plan")

	watch.begin("preparing image, kernel and initramfs")
	a, err := e.prepareAssets(ctx, *rec, caps, o.Progress)
	if err != nil {
		return UpResult{}, err
	}
	e.noticeNewer(*rec, o)
	if err := e.remember(rec, a); err != nil {
		return UpResult{}, err
	}
	if rec.Spec.Init == "" && len(a.image.Content.Config.Args(rec.Spec.Command)) == 0 {
		rec.Spec.Attach, rec.Spec.TTY = false, false // there is no program to attach to
	}
	fault.Point(fault.UpImage)
	watch.lap("assets")

	return e.launch(ctx, rec, a, caps, watch, o)
}

// remember writes down what the machine is made from before anything is made: from then on that
// image is in use, and nobody removes it. Somebody may have done so just before.
func (e *Engine) remember(rec *machine.Record, a assets) error {
	if rec.ImageID == a.image.ID && rec.KernelID == a.kernel.ID {
		return nil
	}
	rec.ImageID, rec.KernelID = a.image.ID, a.kernel.ID
	if err := e.Records.Save(*rec); err != nil {
		return err
	}
	if _, err := os.Stat(a.image.Path); errors.Is(err, fs.ErrNotExist) {
		return machine.Errorf("image.gone", "run the command again", "the image %s was removed at this moment", rec.Spec.Image)
	}
	return nil
}

// noticeNewer says that a machine stays on the image that it was made from, when its name means
// another one by now.
func (e *Engine) noticeNewer(rec machine.Record, o UpOptions) {
	if rec.ImageID == "" || o.Notice == nil {
		return
	}
	if now, err := e.ImageStore.Find(rec.Spec.Image); err == nil && now.ID != rec.ImageID {
		o.Notice(fmt.Sprintf("machine %q stays on the image that it was made from, and %s is a newer one by now; the same command with --recreate starts it anew from that, without what it wrote outside of volumes", rec.Name, rec.Spec.Image))
	}
}

// launch makes the machine's own disks and starts its supervisor.
func (e *Engine) launch(ctx context.Context, rec *machine.Record, a assets, caps driver.Capabilities, watch *stopwatch, o UpOptions) (UpResult, error) {
	p := e.places(*rec)
	k, err := newKeys()
	if err != nil {
		return UpResult{}, err
	}
	watch.begin("making disks")
	disks, err := e.makeDrives(ctx, *rec, p, a, k)
	if err != nil {
		return UpResult{}, err
	}
	fault.Point(fault.UpDisks)
	watch.lap("disks")

	boot := bootOf(*rec, p, a, disks)
	if err := saveBoot(p.Boot(), boot); err != nil {
		return UpResult{}, err
	}
	alive, err := e.Locks.TakeAlive(rec.Name)
	if err != nil {
		return UpResult{}, err
	}
	defer func() { _ = alive.Close() }()
	watch.begin("booting on " + rec.Driver)
	st, err := e.Supervisors.Launch(ctx, Launch{
		Boot: boot, HostSeed: k.hostSeed, GuestKey: k.guestPub, Ports: rec.Spec.Ports,
		Isolation: rec.Isolation, Slow: caps.EmulatedSlow, Alive: alive, Log: p.SupervisorLog(),
		Started: func() {
			// From here on the lock is the supervisor's alone.
			_ = alive.Close()
			fault.Point(fault.UpSpawned)
		},
		OnPhase: watch.add,
	})
	if err != nil {
		return UpResult{}, err
	}
	e.forgetSecrets(*rec)
	fault.Point(fault.UpReported)
	rec.Intent, rec.Phases = machine.IntentNone, watch.phases
	if err := e.Records.Save(*rec); err != nil {
		return UpResult{}, err
	}
	return UpResult{
		Name: rec.Name, ID: rec.ID, Attached: rec.Spec.Attach, Init: rec.Spec.Init != "", Driver: rec.Driver, Isolation: rec.Isolation, Notes: caps.Notes,
		Ports: st.Ports, Phases: watch.phases,
	}, nil
}

// undo takes a failed or interrupted start back: the machine's processes are ended, and a
// machine that this start created is gone. One that existed before is as it was.
func (e *Engine) undo(before *machine.Record, rec machine.Record, lock Lock) {
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	if err := e.tryUndo(ctx, before, rec); err != nil {
		// The record keeps its intent, so that the next command tries again.
		e.Log.Error("undoing the start", "machine", rec.Name, "error", err)
		lock.Release()
		return
	}
	if before == nil {
		lock.Remove()
		return
	}
	lock.Release()
}

func (e *Engine) tryUndo(ctx context.Context, before *machine.Record, rec machine.Record) error {
	if e.Locks.Alive(rec.Name) {
		if err := e.stopAlive(ctx, rec, DownOptions{Force: true}); err != nil {
			return err
		}
	}
	if err := e.sweep(ctx, rec); err != nil {
		return err
	}
	if before == nil {
		if err := e.removeKept(ctx, rec); err != nil {
			return err
		}
		return e.Records.Delete(rec.Name)
	}
	old := *before
	old.Generation = rec.Generation // never again: its keys were given out
	return e.Records.Save(old)
}

// foreground runs a started machine's program with the caller's streams until it ends, or
// until ctx does; then the machine is stopped, and removed when it is ephemeral.
func (e *Engine) foreground(ctx context.Context, rec machine.Record, o UpOptions) (int, error) {
	code, err := e.runAttached(ctx, rec, o)
	interrupted := ctx.Err() != nil
	clean := context.WithoutCancel(ctx)
	if interrupted || err != nil {
		if derr := e.Down(clean, rec.Name, DownOptions{Grace: 5 * time.Second}); derr != nil && machine.CodeOf(derr) != "machine.not_found" {
			return code, errors.Join(err, derr) // whoever is in the way says so; waiting would hang
		}
	}
	if werr := e.Locks.WaitDead(clean, rec.Name); werr != nil {
		return code, errors.Join(err, werr)
	}
	if st := e.statusOf(rec); err == nil && !interrupted && st != nil && st.Failure != nil {
		err = st.Failure.Err()
	}
	if now := e.Records.Status(rec.Name); rec.Spec.Ephemeral && (now == nil || now.Generation == rec.Generation) {
		if derr := e.Remove(clean, rec.Name, true); derr != nil && machine.CodeOf(derr) != "machine.not_found" {
			err = errors.Join(err, derr)
		}
	}
	if interrupted {
		return machine.ExitInterrupt, errors.Join(context.Cause(ctx), err)
	}
	return code, err
}

// statusOf returns the status of the boot that rec is of: nil when the machine is gone, or when
// somebody else has started it again since.
func (e *Engine) statusOf(rec machine.Record) *machine.Status {
	if st := e.Records.Status(rec.Name); st != nil && st.Generation == rec.Generation {
		return st
	}
	return nil
}

// runAttached connects the caller to the machine's program, or to its log when it has none.
func (e *Engine) runAttached(ctx context.Context, rec machine.Record, o UpOptions) (int, error) {
	if !rec.Spec.Attach {
		if o.Notice != nil {
			o.Notice(fmt.Sprintf("machine %q is up and has no program of its own; Ctrl-C stops it, `mvmctl console %s` opens a shell", rec.Name, rec.Name))
		}
		err := e.Logs(ctx, rec.Name, LogOptions{Follow: true, Tail: -1}, func(l LogLine) error {
			_, err := fmt.Fprintln(o.Streams.Stdout, l.Text)
			return err
		})
		if st := e.statusOf(rec); st != nil && st.ExitCode != nil {
			return *st.ExitCode, err
		}
		return 0, err
	}
	exit, err := e.attach(ctx, rec, o.Streams)
	return exit.ExitCode, err
}
