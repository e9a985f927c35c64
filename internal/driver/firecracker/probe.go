package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/process"
)

// How long a probe's guest may be silent, and how long it may take altogether; as long as the
// same question takes elsewhere.
const (
	probeSilence = 10 * time.Second
	probeTimeout = time.Minute
)

// What the probe's guest is told and what it answers.
const (
	probeWord  = "mvm.probe"
	probeNoise = "loglevel=7" // after "quiet": here the kernel's messages are signs of life
	probeMark  = "mvm-probe-ok"
)

const probeMemory = 256 << 20

const nestedRemedy = "on a cloud machine choose a type with nested virtualisation (or metal); below another hypervisor switch nesting on there; `mvmctl up --hypervisor qemu` emulates meanwhile"

// tryBoot boots a guest, unless that was done since the host booted: a /dev/kvm that opens may
// still be unable to. The answer is remembered. With nothing to boot the device is believed.
func (d *Driver) tryBoot(ctx context.Context, h host) error {
	if d.opts.BootProbe == nil {
		return nil
	}
	boot, err := process.BootID()
	if err != nil {
		return err
	}
	user := os.Geteuid()
	if r := d.memory.load().Probe; r != nil && r.BootID == boot && r.Binary.sameAs(h.bin.binaryStamp) && r.User == user {
		return probeError(r.Reason)
	}
	assets, err := d.opts.BootProbe(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// Not remembered: the next command may have a kernel.
		return driver.Unavailable("backend.kvm", "run `mvmctl kernel fetch`, then `mvmctl doctor`", "whether KVM works could not be tried (%w)", err)
	}
	reason := ""
	if err := d.bootProbe(ctx, h, assets); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		reason = err.Error()
	}
	d.memory.change(func(r *remembered) {
		r.Probe = &probeResult{BootID: boot, Binary: h.bin.binaryStamp, User: user, Reason: reason}
	})
	d.log.Info("tried KVM", "problem", reason)
	return probeError(reason)
}

func probeError(reason string) error {
	if reason == "" {
		return nil
	}
	return driver.Unavailable("backend.kvm", nestedRemedy, "a test guest did not boot with KVM (%s)", clip(reason, 500))
}

// bootProbe boots a guest that says one word.
func (d *Driver) bootProbe(ctx context.Context, h host, assets ProbeAssets) error {
	dir, err := os.MkdirTemp("", "mvm-fc")
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
	silence := time.AfterFunc(probeSilence, cancel)
	defer silence.Stop()
	console := &markWatch{seen: make(chan struct{}), alive: func() { silence.Reset(probeSilence) }}
	v, err := launch(probeCtx, h, b, driver.Output{Console: console}, []string{probeNoise, probeWord}, d.log)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(probeCtx, func() { _ = v.Kill() })
	defer stop()
	select {
	case <-console.seen:
		_ = v.Kill() // it has shown what there was to see
	case <-v.done:
	}
	err = v.Wait()
	select {
	case <-console.seen:
		return nil
	default:
	}
	switch {
	case probeCtx.Err() != nil:
		return fmt.Errorf("it said nothing for %s", probeSilence)
	case err != nil:
		return err
	}
	return errors.New("it ended without a word")
}

// markWatch closes seen when probeMark passes by, and calls alive for whatever does. It keeps
// only as much as could be the beginning of the mark.
type markWatch struct {
	alive func()

	mu   sync.Mutex
	rest []byte
	seen chan struct{}
	done bool
}

func (w *markWatch) Write(p []byte) (int, error) {
	w.alive()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	if !w.done && bytes.Contains(w.rest, []byte(probeMark)) {
		w.done = true
		close(w.seen)
	}
	if keep := len(probeMark) - 1; len(w.rest) > keep {
		w.rest = append(w.rest[:0], w.rest[len(w.rest)-keep:]...)
	}
	return len(p), nil
}
