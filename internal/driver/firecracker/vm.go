package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
	"github.com/mvmctl/mvmctl/internal/vsock"
)

// vm implements driver.VM.
type vm struct {
	log   *slog.Logger
	site  *site
	child *vmm.Child
	api   *api

	stdout, stderr *os.File
	logged         pipe // what it logs

	out   driver.Output
	words vmm.Tail       // end of what it said
	watch vmm.PanicWatch // what the console says of a panic

	copying sync.WaitGroup // the readers

	mu     sync.Mutex
	guest  bool // standard output is the guest's console
	killed bool

	done chan struct{} // closed when all is gone
	err  error         // valid once done is closed
}

var (
	_ driver.VM           = (*vm)(nil)
	_ driver.ProcessOwner = (*vm)(nil)
	_ driver.Pauser       = (*vm)(nil)
)

func newVM(s *site, out driver.Output, log *slog.Logger) *vm {
	if out.Console == nil {
		out.Console = io.Discard
	}
	if out.VMM == nil {
		out.VMM = io.Discard
	}
	v := &vm{log: log, site: s, out: out, done: make(chan struct{})}
	v.api = newAPI(v.dialAPI)
	return v
}

// run starts the readers and the one who waits for the end.
func (v *vm) run() {
	own := io.MultiWriter(&v.words, v.out.VMM)
	v.copying.Go(func() { vmm.CopyAll(consoleWriter{v, own}, v.stdout) })
	v.copying.Go(func() { vmm.CopyAll(own, v.stderr) })
	v.copying.Go(func() { vmm.CopyAll(own, v.logged.r) })
	go v.reap()
}

// consoleWriter sends standard output where it belongs: until the guest runs it is Firecracker
// that speaks there, of what was wrong with its arguments say.
type consoleWriter struct {
	vm  *vm
	own io.Writer
}

func (w consoleWriter) Write(p []byte) (int, error) {
	w.vm.mu.Lock()
	guest := w.vm.guest
	w.vm.mu.Unlock()
	if !guest {
		return w.own.Write(p)
	}
	_, _ = w.vm.watch.Write(p)
	return w.vm.out.Console.Write(p)
}

func (v *vm) switchConsole() {
	v.mu.Lock()
	v.guest = true
	v.mu.Unlock()
}

// reap waits for the end, collects what was said last, and clears up.
func (v *vm) reap() {
	<-v.child.Exited
	_ = v.logged.w.Close() // the last writer: now its reader sees the end
	vmm.Drain(v.copying.Wait, v.closeOurs)
	v.api.close()
	err := v.verdict()
	if cerr := v.site.remove(); cerr != nil {
		v.log.Error("clearing up after Firecracker", "error", cerr)
		if err == nil {
			err = machine.Errorf("state.readonly", "look at the machine's folder", "clearing up after Firecracker: %w", cerr)
		}
	}
	v.err = err
	close(v.done)
}

// closeOurs closes our ends.
func (v *vm) closeOurs() {
	for _, f := range []*os.File{v.stdout, v.stderr, v.logged.r, v.logged.w} {
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
	if v.killed {
		return nil
	}
	if panicked := v.watch.Text(); panicked != "" {
		return vmm.PanicError(panicked)
	}
	if v.child.Well() {
		return nil
	}
	return v.child.DiedError(v.words.String())
}

// Dial implements driver.VM. Firecracker answers once the guest has; a guest port that nobody
// listens on (yet) is a connection that it closes.
func (v *vm) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	var retry vmm.Retry
	for {
		conn, err := v.dialOnce(ctx, port)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("waiting for the guest: %w", ctx.Err())
		case v.child.Ended():
			return nil, vmm.ErrEnded
		case !retryDial(err), port != driver.AgentPort && !vmm.NoSocket(err):
			return nil, err
		}
		switch err := retry.Pause(ctx, v.child.Exited); {
		case errors.Is(err, vmm.ErrEnded):
			return nil, err
		case err != nil:
			return nil, fmt.Errorf("waiting for the guest: %w", err)
		}
	}
}

func (v *vm) dialOnce(ctx context.Context, port uint32) (net.Conn, error) {
	conn, err := vsock.DialUnix(ctx, v.site.where(vsockSocket), port)
	if err != nil {
		return nil, err
	}
	if err := checkPeer(conn, v.site.uid); err != nil {
		_ = conn.Close()
		return nil, machine.Errorf("vmm.api", "end the machine with `mvmctl down --force`, and look at its log", "connecting to the guest: %w", err)
	}
	return conn, nil
}

// retryDial: the guest does not listen yet, or Firecracker closed the connection while it set up
// its side.
func retryDial(err error) bool {
	return errors.Is(err, vsock.ErrNotListening) || vmm.NoSocket(err) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Shutdown implements driver.VM. Ctrl-Alt-Del is the only button that Firecracker has, and only
// on amd64; a guest without a keyboard driver does not notice. The agent's channel is the way
// that works everywhere.
func (v *vm) Shutdown(ctx context.Context) error {
	if v.child.Ended() {
		return nil
	}
	err := v.api.call(ctx, ctrlADRequest())
	if errors.Is(err, errAPIClosed) {
		return nil // it is ending or has ended
	}
	if f, ok := errors.AsType[*fault](err); ok {
		return machine.Errorf("vmm.api", "end it with `mvmctl down --force`", "Firecracker cannot press the guest's power button: %w", f)
	}
	return err
}

// Pause implements driver.Pauser.
func (v *vm) Pause(ctx context.Context) error { return v.turn(ctx, statePaused) }

// Resume implements driver.Pauser.
func (v *vm) Resume(ctx context.Context) error { return v.turn(ctx, stateResumed) }

func (v *vm) turn(ctx context.Context, state string) error {
	if v.child.Ended() {
		return vmm.ErrEnded
	}
	err := v.api.call(ctx, stateRequest(state))
	if f, ok := errors.AsType[*fault](err); ok {
		return machine.Errorf("vmm.api", "look at the VMM's log", "Firecracker does not change the state of the machine: %w", f)
	}
	return err
}

// Kill implements driver.VM.
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

// Pid implements driver.ProcessOwner. Of a jail it is the first process, with which all others end.
func (v *vm) Pid() int { return v.child.Pid }
