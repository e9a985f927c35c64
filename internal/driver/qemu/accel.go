package qemu

import (
	"context"
	"errors"
	"fmt"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

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
		return machine.Usagef("input.accel", "use MVM_QEMU_ACCEL="+native+" or MVM_QEMU_ACCEL=tcg", "%q is not an accelerator of this host", vmm.Clip(d.opts.Accel, 40))
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
	p := vmm.Probe{
		Binary: h.bin.Stamp, How: h.accel + " " + h.flavor, Known: d.memory.Load().Probe, Assets: d.opts.BootProbe,
		Keep: func(t vmm.Trial) {
			d.memory.Change(func(r *remembered) { r.Probe = &t })
			d.log.Info("tried the accelerator", "accel", h.accel, "problem", t.Reason)
		},
		Launch: func(ctx context.Context, b machine.Boot, out driver.Output, words []string) (driver.VM, error) {
			h.transport = transportSerial // one thing at a time
			return start(ctx, h, b, out, words, d.log)
		},
	}
	if p.Assets == nil {
		p.Assets = func(context.Context) (vmm.ProbeAssets, error) { return vmm.ProbeAssets{}, errNothingToBoot }
	}
	reason, err := p.Try(ctx)
	if untried, ok := errors.AsType[*vmm.UntriedError](err); ok {
		return fmt.Sprintf("whether %s works could not be tried (%v)", h.accel, untried.Cause), nil
	}
	if err != nil || reason == "" {
		return "", err
	}
	return fmt.Sprintf("a test guest did not boot with %s (%s); on a cloud machine, choose a type with nested virtualisation", h.accel, reason), nil
}

var errNothingToBoot = errors.New("there is nothing to try it with")
