package vmm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/process"
)

// How long a probe's guest may be silent, and how long it may take altogether. Where the
// accelerator works it boots in well under a second; where it does not it usually says nothing
// at all, which costs probeSilence once per boot of the host. A nested host whose own
// processor is emulated needs 10 s, but its kernel talks meanwhile.
const (
	probeSilence = 20 * time.Second
	probeTimeout = time.Minute
)

// What the probe's guest is told and what it answers.
const (
	ProbeWord  = "mvm.probe"
	probeNoise = "loglevel=6" // after "quiet": signs of life, but few: each byte is an exit, and 7 makes a nested guest three times slower
	probeMark  = "mvm-probe-ok"
)

const probeMemory = 256 << 20

// ProbeAssets are a kernel and an initramfs for a boot probe. The initrd must print
// "mvm-probe-ok" on the console and end the machine when the kernel command line has "mvm.probe".
type ProbeAssets struct {
	Kernel machine.Kernel
	Initrd string
}

// Trial is the outcome of a boot probe, as it is remembered.
type Trial struct {
	BootID string `json:"boot_id"`
	Binary Stamp  `json:"binary"`
	How    string `json:"how"`    // whatever else the outcome depends on
	Reason string `json:"reason"` // "": a guest booted

	// Until is when a Reason that may have been chance is no longer believed; zero: it was none.
	// Misses is how often it was so in a row.
	Until  time.Time `json:"until,omitzero"`
	Misses int       `json:"misses,omitempty"`
}

// How long a reason that may have been chance is believed: at first so that a command after another
// need not wait again, and twice as long with each further time, since what never boots costs
// probeSilence each time.
const (
	firstDoubt = 5 * time.Minute
	lastDoubt  = 24 * time.Hour
)

// holds reports whether the outcome is still believed.
func (t *Trial) holds(now time.Time) bool {
	// A clock that was set back must not make it last.
	return t.Until.IsZero() || now.Before(t.Until) && now.Add(lastDoubt).After(t.Until)
}

// doubt is the outcome of a guest that was lost, after the one before.
func (t *Trial) doubt(before *Trial, now time.Time) {
	t.Misses = 1
	if before != nil && !before.Until.IsZero() {
		t.Misses = min(before.Misses, 16) + 1
	}
	t.Until = now.Add(min(firstDoubt<<(t.Misses-1), lastDoubt))
}

// Probe is a question whether a guest boots.
type Probe struct {
	Binary Stamp
	How    string
	Known  *Trial      // what is remembered; nil: nothing
	Keep   func(Trial) // remembers the outcome
	Assets func(ctx context.Context) (ProbeAssets, error)
	// Silence is how long the guest may say nothing; 0: 20 s.
	Silence time.Duration
	Now     func() time.Time // nil: time.Now
	// Launch starts a machine with these words in the kernel's command line, as Driver.Start does.
	Launch func(ctx context.Context, b machine.Boot, out driver.Output, words []string) (driver.VM, error)
}

// UntriedError says that no guest could be asked: there was nothing to boot, or the host had no room
// for it. That is not remembered: the next command may be luckier.
type UntriedError struct{ Cause error }

func (e *UntriedError) Error() string { return "it could not be tried: " + e.Cause.Error() }

// Unwrap returns the cause.
func (e *UntriedError) Unwrap() error { return e.Cause }

// Remedy returns what the cause says to do, or else what makes a kernel and an initramfs be there.
func (e *UntriedError) Remedy() string {
	if me, ok := errors.AsType[*machine.Error](e.Cause); ok && me.Remedy != "" {
		return me.Remedy
	}
	return "run `mvmctl kernel fetch`, then `mvmctl doctor`"
}

// lostError is the end of a guest that began to boot: it was lost, which on a busy or nested host
// may be chance.
type lostError struct{ error }

// Try says why no guest boots, "" when one did. That one did, and that the VMM refuses, holds until
// the host boots again or Binary or How change; that a guest was lost only for a while. An error is
// an *UntriedError, or ctx's, which ended first.
func (p Probe) Try(ctx context.Context) (reason string, err error) {
	boot, err := process.BootID()
	if err != nil {
		return "", err
	}
	known := p.Known
	if known != nil && (known.BootID != boot || !known.Binary.SameAs(p.Binary) || known.How != p.How) {
		known = nil
	}
	if known != nil && known.holds(p.now()) {
		return known.Reason, nil
	}
	assets, err := p.Assets(ctx)
	if err == nil {
		err = p.boot(ctx, assets)
	} else {
		err = &UntriedError{err}
	}
	t := Trial{BootID: boot, Binary: p.Binary, How: p.How}
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if untried, ok := errors.AsType[*UntriedError](err); ok {
			return "", untried
		}
		t.Reason = Clip(err.Error(), 500)
		if _, lost := errors.AsType[lostError](err); lost {
			t.doubt(known, p.now())
		}
	}
	p.Keep(t)
	return t.Reason, nil
}

func (p Probe) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}

// notStarted sorts the errors of a guest that did not start. What has no code is an error of ours (no
// folder, no descriptor), and limits change from one moment to the next: nothing was tried. Only what
// the VMM itself says of the host is an answer for good.
func notStarted(err error) error {
	code := machine.CodeOf(err)
	switch {
	case code == "", code == "backend.missing", strings.HasPrefix(code, "limit."): // the program was not run
		return &UntriedError{err}
	case code == "boot.vmm_died" && !wasKilled(err), strings.HasPrefix(code, "backend."):
		return err
	}
	return lostError{err}
}

// boot boots a guest that says one word.
func (p Probe) boot(ctx context.Context, assets ProbeAssets) error {
	dir, err := os.MkdirTemp("", "mvm-try")
	if err != nil {
		return &UntriedError{fmt.Errorf("making a folder for the test guest: %w", err)}
	}
	defer func() { _ = os.RemoveAll(dir) }()
	probeCtx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	b := machine.Boot{
		Name: "probe", ID: machine.NewID(), CPUs: 1, MemoryBytes: probeMemory, Kernel: assets.Kernel, Initrd: assets.Initrd,
		Dir: dir, RuntimeDir: dir,
	}
	quiet := cmp.Or(p.Silence, probeSilence)
	silence := time.AfterFunc(quiet, cancel)
	defer silence.Stop()
	console := NewProbeWatch(func() { silence.Reset(quiet) })
	v, err := p.Launch(probeCtx, b, driver.Output{Console: console}, []string{ProbeWord, probeNoise})
	if err != nil {
		return notStarted(err)
	}
	stop := context.AfterFunc(probeCtx, func() { _ = v.Kill() })
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- v.Wait() }()
	select {
	case <-console.Seen:
		_ = v.Kill() // it has shown what there was to see
		err = <-ended
	case err = <-ended:
	}
	select {
	case <-console.Seen:
		return nil
	default:
	}
	switch {
	case errors.Is(probeCtx.Err(), context.DeadlineExceeded):
		return lostError{fmt.Errorf("it did not get there in %s", probeTimeout)}
	case probeCtx.Err() != nil:
		return lostError{fmt.Errorf("it said nothing for %s", quiet)}
	case err != nil:
		return lostError{err}
	}
	return lostError{errors.New("it ended without a word")}
}

// ProbeWatch is a console that waits for what a probe's guest says.
type ProbeWatch struct {
	Seen chan struct{} // closed once it was said

	alive func()
	mu    sync.Mutex
	rest  []byte // only as much as could be the beginning of the mark
	done  bool
}

var _ io.Writer = (*ProbeWatch)(nil)

// NewProbeWatch returns one that calls alive for whatever passes by.
func NewProbeWatch(alive func()) *ProbeWatch {
	return &ProbeWatch{Seen: make(chan struct{}), alive: alive}
}

// Write implements io.Writer; it never fails.
func (w *ProbeWatch) Write(p []byte) (int, error) {
	w.alive()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	if !w.done && bytes.Contains(w.rest, []byte(probeMark)) {
		w.done = true
		close(w.Seen)
	}
	if keep := len(probeMark) - 1; len(w.rest) > keep {
		w.rest = append(w.rest[:0], w.rest[len(w.rest)-keep:]...)
	}
	return len(p), nil
}
