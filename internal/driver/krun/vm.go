package krun

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// vm implements driver.VM.
type vm struct {
	log   *slog.Logger
	guest vmm.GuestSocket
	child *vmm.Child

	console *os.File // the guest's serial port
	output  *os.File // what the runner and libkrun print

	out   driver.Output
	words vmm.Tail       // end of what libkrun printed
	watch vmm.PanicWatch // what the console says of a panic

	copying sync.WaitGroup // the readers of console and output

	mu     sync.Mutex
	killed bool

	done chan struct{} // closed when all is gone
	err  error         // valid once done is closed
}

var (
	_ driver.VM           = (*vm)(nil)
	_ driver.ProcessOwner = (*vm)(nil)
	_ driver.Pauser       = (*vm)(nil)
)

func newVM(socket string, out driver.Output, log *slog.Logger) *vm {
	if out.Console == nil {
		out.Console = io.Discard
	}
	if out.VMM == nil {
		out.VMM = io.Discard
	}
	return &vm{log: log, guest: vmm.GuestSocket{Path: socket}, out: out, done: make(chan struct{})}
}

// run starts the readers and the one who waits for the end.
func (v *vm) run() {
	v.copying.Go(func() { vmm.CopyAll(io.MultiWriter(&v.watch, v.out.Console), v.console) })
	v.copying.Go(func() { vmm.CopyAll(io.MultiWriter(&v.words, v.out.VMM), v.output) })
	go v.reap()
}

// reap waits for the end, collects what was said last, and clears up.
func (v *vm) reap() {
	<-v.child.Exited
	vmm.Drain(v.copying.Wait, v.closeOurs)
	err := v.verdict()
	if cerr := removeSocket(v.guest.Path); cerr != nil {
		v.log.Error("clearing up after libkrun", "error", cerr)
		if err == nil {
			err = machine.Errorf("state.readonly", "look at the machine's folder", "clearing up after libkrun: %w", cerr)
		}
	}
	v.err = err
	close(v.done)
}

// closeOurs closes our ends.
func (v *vm) closeOurs() {
	for _, f := range []*os.File{v.console, v.output} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// verdict says whether the machine ended as it should. A power-off, a reboot and a panic all look
// the same from outside, a reset; what the console said of a panic makes the difference.
func (v *vm) verdict() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch panicked := v.watch.Text(); {
	case v.killed:
		return nil
	case panicked != "":
		return vmm.PanicError(panicked)
	case v.child.Well():
		return nil
	}
	return v.child.DiedError(v.words.String())
}

// Dial implements driver.VM.
func (v *vm) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return v.guest.Dial(ctx, port, v.child)
}

// Shutdown implements driver.VM. libkrun has no button to press: the agent's channel is the way.
func (v *vm) Shutdown(context.Context) error {
	if v.child.Ended() {
		return nil
	}
	return machine.Errorf("vmm.api", "end it with `mvmctl down --force`", "libkrun cannot press the guest's power button: it has none")
}

// Pause implements driver.Pauser. A process that stands still runs no processor of its machine, and
// what it was doing goes on with it.
func (v *vm) Pause(ctx context.Context) error {
	if err := v.child.Stop(); err != nil {
		return err
	}
	var retry vmm.Retry // the kernel stops each of its threads when it next looks
	for !v.child.Stopped() {
		if err := retry.Pause(ctx, v.child.Exited); err != nil {
			return err
		}
	}
	return nil
}

// Resume implements driver.Pauser.
func (v *vm) Resume(context.Context) error { return v.child.Continue() }

// Kill implements driver.VM. It ends a process that stands still too.
func (v *vm) Kill() error {
	v.mu.Lock()
	if !v.child.Ended() { // else how it ended is settled
		v.killed = true
	}
	v.mu.Unlock()
	return v.child.Kill()
}

// Wait implements driver.VM.
func (v *vm) Wait() error {
	<-v.done
	return v.err
}

// Pid implements driver.ProcessOwner.
func (v *vm) Pid() int { return v.child.Pid }
