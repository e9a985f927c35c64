package vz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// vm implements driver.VM.
type vm struct {
	log     *slog.Logger
	sockets sockets
	child   *vmm.Child
	api     *api
	guest   vmm.GuestSocket

	output  *os.File // what vfkit prints
	console *os.File // the guest's terminal

	out   driver.Output
	words vmm.Tail       // end of what vfkit printed
	watch vmm.PanicWatch // what the console says of a panic

	copying sync.WaitGroup // the readers of console and output

	mu     sync.Mutex
	killed bool
	ending bool // vfkit has ended

	done chan struct{} // closed when all is gone
	err  error         // valid once done is closed
}

var (
	_ driver.VM           = (*vm)(nil)
	_ driver.ProcessOwner = (*vm)(nil)
	_ driver.Pauser       = (*vm)(nil)
)

func newVM(s sockets, out driver.Output, log *slog.Logger) *vm {
	if out.Console == nil {
		out.Console = io.Discard
	}
	if out.VMM == nil {
		out.VMM = io.Discard
	}
	v := &vm{log: log, sockets: s, out: out, done: make(chan struct{})}
	v.api = newAPI(v.dialAPI)
	v.guest.Path, v.guest.Hopeless = s.agent, v.unexposed
	return v
}

// start starts vfkit, the reader of its output and the one who waits for its end.
func (v *vm) start(path string, args []string) error {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	defer func() { _ = theirs.Close() }() // or its reader would never see the end
	v.child, err = vmm.Command{
		Name: "vfkit", Argv: append([]string{path}, args...), Stdout: theirs, Stderr: theirs, Remedy: install,
		Began: v.out.Began, Gated: true,
	}.Start()
	if err != nil {
		_ = ours.Close()
		return err
	}
	v.output = ours
	v.copying.Go(func() { vmm.CopyAll(io.MultiWriter(&v.words, v.out.VMM), v.output) })
	go v.reap()
	return nil
}

// readConsole starts the reader of the guest's terminal.
func (v *vm) readConsole(f *os.File) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ending {
		return errors.Join(vmm.ErrEnded, f.Close())
	}
	v.console = f
	v.copying.Go(func() { vmm.CopyAll(io.MultiWriter(&v.watch, v.out.Console), f) })
	return nil
}

// reap waits for the end, collects what was said last, and clears up.
func (v *vm) reap() {
	<-v.child.Exited
	v.mu.Lock()
	v.ending = true
	console := v.console
	v.mu.Unlock()
	vmm.Drain(v.copying.Wait, func() {
		_ = v.output.Close()
		if console != nil {
			_ = console.Close()
		}
	})
	err := v.verdict()
	if cerr := v.sockets.remove(); cerr != nil {
		v.log.Error("clearing up after vfkit", "error", cerr)
		if err == nil {
			err = machine.Errorf("state.readonly", "look at the machine's folder", "clearing up after vfkit: %w", cerr)
		}
	}
	v.err = err
	close(v.done)
}

// verdict says whether the machine ended as it should.
func (v *vm) verdict() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.killed:
		return nil
	case v.watch.Text() != "":
		return vmm.PanicError(v.watch.Text())
	case v.child.Well():
		return nil
	}
	return v.child.DiedError(v.words.String())
}

// notExposed is what vfkit says when it goes on without a socket that it was to make.
const notExposed = "error exposing vsock port"

// Dial implements driver.VM.
func (v *vm) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return v.guest.Dial(ctx, port, v.child)
}

// unexposed is the end of waiting for the socket of the guest's channel, when vfkit has said that it
// goes on without.
func (v *vm) unexposed(missing error) error {
	if !strings.Contains(v.words.String(), notExposed) {
		return nil
	}
	return machine.Errorf("vmm.api", "start the machine again; look at the VMM's log", "vfkit has not made the socket of the guest's channel: %w", missing)
}

// Shutdown implements driver.VM. The guest notices only if it has a driver for the button and a
// program that listens; the agent's channel is the way that works everywhere.
func (v *vm) Shutdown(ctx context.Context) error {
	if v.child.Ended() {
		return nil
	}
	err := v.api.change(ctx, toStopped)
	switch refused, ok := errors.AsType[*refusal](err); {
	case ok:
		return machine.Errorf("vmm.api", "use `mvmctl down --force`", "vfkit cannot press the guest's power button: %w", refused)
	case err != nil && (v.child.Ended() || errors.Is(err, io.EOF)):
		return nil // it is ending or has ended
	}
	return err
}

// Pause implements driver.Pauser.
func (v *vm) Pause(ctx context.Context) error { return v.bring(ctx, toPaused, statePaused) }

// Resume implements driver.Pauser.
func (v *vm) Resume(ctx context.Context) error { return v.bring(ctx, toRunning, stateRunning) }

// bring changes the state. The framework refuses to bring a machine where it is already.
func (v *vm) bring(ctx context.Context, to, there string) error {
	err := v.api.change(ctx, to)
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		return err
	}
	if state, serr := v.api.state(ctx); serr == nil && state == there {
		return nil
	}
	return machine.Errorf("vmm.api", "look at the VMM's log", "vfkit does not change the machine's state: %w", refused)
}

// Kill implements driver.VM. The machine ends with vfkit.
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
