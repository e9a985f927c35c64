package vmm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
	probeNoise = "loglevel=7" // after "quiet": here the kernel's messages are signs of life
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
	// Launch starts a machine with these words in the kernel's command line, as Driver.Start does.
	Launch func(ctx context.Context, b machine.Boot, out driver.Output, words []string) (driver.VM, error)
}

// UntriedError says that there was nothing to boot. That is not remembered: the next command may
// have a kernel.
type UntriedError struct{ Cause error }

func (e *UntriedError) Error() string { return "it could not be tried: " + e.Cause.Error() }

// Unwrap returns the cause.
func (e *UntriedError) Unwrap() error { return e.Cause }

// Try says why no guest boots, "" when one did. The answer holds until the host boots again or
// Binary or How change. An error is an *UntriedError, or ctx's, which ended first.
func (p Probe) Try(ctx context.Context) (reason string, err error) {
	boot, err := process.BootID()
	if err != nil {
		return "", err
	}
	if t := p.Known; t != nil && t.BootID == boot && t.Binary.SameAs(p.Binary) && t.How == p.How {
		return t.Reason, nil
	}
	assets, err := p.Assets(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", &UntriedError{err}
	}
	if err := p.boot(ctx, assets); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		reason = Clip(err.Error(), 500)
	}
	p.Keep(Trial{BootID: boot, Binary: p.Binary, How: p.How, Reason: reason})
	return reason, nil
}

// boot boots a guest that says one word.
func (p Probe) boot(ctx context.Context, assets ProbeAssets) error {
	dir, err := os.MkdirTemp("", "mvm-try")
	if err != nil {
		return fmt.Errorf("making a folder for the test guest: %w", err)
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
		return err
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
	case probeCtx.Err() != nil:
		return fmt.Errorf("it said nothing for %s", quiet)
	case err != nil:
		return err
	}
	return errors.New("it ended without a word")
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
