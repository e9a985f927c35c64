package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// chooseAccel fills in the accelerator: the one that was asked for, or hardware
// virtualisation if a guest was seen to boot with it, else emulation with a note.
func (d *Driver) chooseAccel(ctx context.Context, h *host) error {
	native, problem := accelDevice()
	switch d.opts.Accel {
	case "":
	case accelTCG:
		d.setAccel(h, accelTCG)
		return nil
	case native:
		if problem != "" {
			return driver.Unavailable("backend.accel", "set MVM_QEMU_ACCEL=tcg to go without", "%s was asked for, but %s", native, problem)
		}
		d.setAccel(h, native)
		return nil
	default:
		return machine.Usagef("input.accel", "use MVM_QEMU_ACCEL="+native+" or MVM_QEMU_ACCEL=tcg", "%q is not an accelerator of this host", clip(d.opts.Accel, 40))
	}
	if problem == "" {
		d.setAccel(h, native)
		var err error
		if problem, err = d.tried(ctx, *h); err != nil {
			return err
		}
		if problem == "" {
			return nil
		}
	}
	d.setAccel(h, accelTCG)
	h.notes = append(h.notes, "emulating the processor, which is slow and no security boundary: "+problem)
	return nil
}

// tried says why h's accelerator is not usable, "" when a guest booted with it. The answer is
// remembered until the host boots again or QEMU changes. An error means that ctx ended first.
func (d *Driver) tried(ctx context.Context, h host) (string, error) {
	boot, err := process.BootID()
	if err != nil {
		return "", err
	}
	if r := d.memory.load().Probe; r != nil && r.BootID == boot && r.Binary.sameAs(h.bin.binaryStamp) && r.Accel == h.accel && r.Flavor == h.flavor {
		return r.Reason, nil
	}
	if d.opts.BootProbe == nil {
		return "whether " + h.accel + " works was not tried", nil
	}
	assets, err := d.opts.BootProbe(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		// Not remembered: the next command may have a kernel.
		return fmt.Sprintf("whether %s works could not be tried (%v)", h.accel, err), nil
	}
	reason := ""
	if err := d.bootProbe(ctx, h, assets); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		reason = fmt.Sprintf("a test guest did not boot with %s (%v); on a cloud machine, choose a type with nested virtualisation", h.accel, err)
	}
	d.memory.change(func(r *remembered) {
		r.Probe = &probeResult{BootID: boot, Binary: h.bin.binaryStamp, Accel: h.accel, Flavor: h.flavor, Kernel: assets.Kernel.ID, OK: reason == "", Reason: reason}
	})
	d.log.Info("tried the accelerator", "accel", h.accel, "problem", reason)
	return reason, nil
}

// bootProbe boots a guest that says one word and powers off.
func (d *Driver) bootProbe(ctx context.Context, h host, assets ProbeAssets) error {
	probeCtx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	b := machine.Boot{Name: "probe", CPUs: 1, MemoryBytes: probeMemory, Kernel: assets.Kernel, Initrd: assets.Initrd}
	h.transport = transportSerial // one thing at a time
	silence := time.AfterFunc(probeSilence, cancel)
	defer silence.Stop()
	console := &markWatch{seen: make(chan struct{}), alive: func() { silence.Reset(probeSilence) }}
	v, err := launch(probeCtx, h, b, driver.Output{Console: console}, []string{probeWord, probeNoise}, d.log)
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
	return errors.New("it powered off without a word")
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
