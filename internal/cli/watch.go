package cli

import (
	"context"
	"slices"
	"sync"

	"github.com/mvmctl/mvmctl/internal/build"
	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// watched is a machine that is made anew each time that its image changes.
type watched struct {
	a    *app
	eng  Engine
	spec machine.Spec
	stop func() // ends the run and waits for its end; nil: nothing was started
	mu   sync.Mutex
	live string // id of the image of the run that goes on; "" when none does
}

// upWatching is `up --watch`: it builds, runs the machine in the foreground, and when the source
// has changed and gives another image, starts a new machine of it in the old one's place. The
// machine is an ephemeral one: what it wrote ends with it, except on volumes.
func (a *app) upWatching(ctx context.Context, cfg config.Config, eng Engine, spec machine.Spec, from source) error {
	folder, err := from.watchable()
	if err != nil {
		return err
	}
	if slices.Contains(eng.Names(ctx), spec.Name) {
		return machine.Errorf("machine.exists", "choose another --name, or delete it: mvmctl rm "+spec.Name,
			"machine %q exists already, and --watch would make it anew", spec.Name)
	}
	w := &watched{a: a, eng: eng, spec: spec}
	w.spec.Ephemeral, w.spec.TTY = true, false
	defer w.end()
	return build.Watch(ctx, folder, func(ctx context.Context) error {
		next := spec
		progress := a.newProgress(cfg)
		err := a.imageFor(ctx, &next, provision{cfg, eng, from, progress})
		progress.Stop()
		if err != nil {
			return err
		}
		if next.Runner != "" {
			return machine.Usagef("usage.flag", "leave out --watch", "a machine of microvm.nix cannot be watched: up with --recreate starts it anew")
		}
		img, err := eng.Image(ctx, next.Image)
		if err != nil {
			return err
		}
		if w.running() == img.ID {
			a.say("mvmctl: the image is as it was; the machine goes on\n")
			return nil
		}
		w.end()
		w.spec.Image, w.spec.CPUs, w.spec.Memory, w.spec.Disk = next.Image, next.CPUs, next.Memory, next.Disk
		w.begin(ctx, img.ID)
		return nil
	}, func(err error) { a.report(ctx, err) })
}

func (w *watched) running() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live
}

// begin runs the machine until it ends by itself or end is called.
func (w *watched) begin(ctx context.Context, id string) {
	run, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	w.stop = func() {
		cancel()
		<-done
	}
	w.live = id // nobody else is there yet
	uo := engine.UpOptions{
		Streams: engine.Streams{Stdout: w.a.out, Stderr: w.a.io.Err},
		Notice:  func(text string) { w.a.say("mvmctl: %s\n", ui.Line(text)) },
		Started: func(r engine.UpResult) {
			w.spec.Name = r.Name // the next one has the same
			w.a.announce(r, upOptions{})
		},
	}
	spec := w.spec
	go func() {
		defer close(done)
		res, err := w.eng.Up(run, spec, uo)
		w.mu.Lock()
		w.live = ""
		w.mu.Unlock()
		switch {
		case run.Err() != nil && quietly(err):
		case err != nil:
			w.a.report(run, err)
		default:
			w.a.say("mvmctl: the machine ended with exit code %d; it starts again when the source changes\n", res.ExitCode)
		}
	}()
}

// end stops the machine and waits until it is gone.
func (w *watched) end() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}
