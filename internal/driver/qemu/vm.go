package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// connFile is our end of a socket pair.
type connFile = net.UnixConn

// vm implements driver.VM.
type vm struct {
	log   *slog.Logger
	child *vmm.Child
	cid   uint32 // of the guest, when it is reached by vsock; else 0
	port  *port  // the agent's virtio-serial port

	group       bool // whatever else is in the child's process group ends with it
	unmonitored bool // by intent: there is no QMP

	qmpConn, consoleConn *connFile
	output, outputChild  *os.File // what QEMU prints

	out   driver.Output
	words vmm.Tail       // end of what QEMU printed
	ills  troubles       // what goes wrong while it goes on
	watch vmm.PanicWatch // what the console says of a panic

	copying sync.WaitGroup // the readers of console and output

	mu        sync.Mutex
	qmp       *qmp
	killed    bool
	connected bool   // a guest came far enough to be dialled
	reason    string // of QMP's SHUTDOWN event

	done chan struct{} // closed when all is gone
	err  error         // valid once done is closed
}

var (
	_ driver.VM           = (*vm)(nil)
	_ driver.ProcessOwner = (*vm)(nil)
	_ driver.Pauser       = (*vm)(nil)
)

func newVM(out driver.Output, log *slog.Logger) *vm {
	if out.Console == nil {
		out.Console = io.Discard
	}
	if out.VMM == nil {
		out.VMM = io.Discard
	}
	if out.Trouble == nil {
		out.Trouble = func(string) {}
	}
	return &vm{out: out, log: log, port: newPort(), ills: troubles{tell: out.Trouble}, done: make(chan struct{})}
}

// run starts the readers and the one who waits for the end.
func (v *vm) run() {
	v.copying.Go(func() { vmm.CopyAll(io.MultiWriter(&v.watch, v.out.Console), v.consoleConn) })
	v.copying.Go(func() { vmm.CopyAll(io.MultiWriter(&v.words, v.out.VMM), v.output) })
	go v.reap()
}

// reap waits for QEMU's end, collects what it said last, and clears up.
func (v *vm) reap() {
	<-v.child.Exited
	if v.group {
		_ = v.child.KillGroup()
	}
	vmm.Drain(func() {
		v.copying.Wait()
		if q := v.monitor(); q != nil {
			<-q.done // the SHUTDOWN event may still be in the socket
		}
	}, func() {
		v.port.end()
		v.release()
	})
	v.err = v.verdict()
	close(v.done)
}

// release closes our ends.
func (v *vm) release() {
	for _, c := range []*connFile{v.qmpConn, v.consoleConn} {
		if c != nil {
			_ = c.Close()
		}
	}
	for _, f := range []*os.File{v.output, v.outputChild} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// verdict says whether the machine ended as it should.
func (v *vm) verdict() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.killed {
		return nil
	}
	if v.qmp != nil {
		if err := v.qmp.broken(); err != nil {
			return err
		}
	}
	panicked := v.watch.Text()
	switch {
	case v.unmonitored && panicked != "":
		return vmm.PanicError(panicked)
	case v.unmonitored && v.child.Well():
		return nil // it is not told from a power-off
	case v.reason == "guest-shutdown":
		return nil
	case v.reason == "guest-panic", v.reason == "guest-reset" && panicked != "":
		return vmm.PanicError(panicked)
	case v.reason == "guest-reset" && v.connected:
		return nil // a reboot of a guest that was up: the machine ends with it
	case v.reason == "guest-reset":
		return machine.Errorf("guest.reset", "look at the console log; try another --kernel", "the guest reset itself while it booted")
	}
	return v.child.DiedError(v.words.String())
}

// event handles one QMP event.
func (v *vm) event(name string, data json.RawMessage) {
	switch name {
	case "SHUTDOWN":
		var d struct {
			Reason string `json:"reason"`
		}
		_ = json.Unmarshal(data, &d) // a bad one gives no reason, which is an error in the end
		v.mu.Lock()
		if v.reason == "" {
			v.reason = vmm.Clip(d.Reason, 64)
		}
		v.mu.Unlock()
	case "VSERPORT_CHANGE":
		var d struct {
			ID   string `json:"id"`
			Open bool   `json:"open"`
		}
		if json.Unmarshal(data, &d) == nil && d.ID == agentDevice {
			v.port.changed(d.Open)
		}
	case eventBlockError:
		v.ills.blockError(data)
	case "STOP":
		since := v.ills.stopped()
		go v.askWhyStopped(since)
	case "RESUME":
		v.ills.resumed()
	}
}

// askWhyStopped finds out why the guest was paused, which the event does not say.
func (v *vm) askWhyStopped(since int) {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	q := v.monitor()
	if q == nil {
		return
	}
	data, err := q.execute(ctx, "query-status", nil)
	if err != nil {
		return
	}
	var d struct {
		Status string `json:"status"`
	}
	if json.Unmarshal(data, &d) == nil {
		v.ills.stoppedBy(since, d.Status)
	}
}

func (v *vm) setQMP(q *qmp) {
	v.mu.Lock()
	v.qmp = q
	v.mu.Unlock()
	go func() {
		<-q.done
		// Without its monitor a machine cannot be controlled; a QEMU that is ending anyway
		// loses nothing.
		if q.broken() != nil {
			v.log.Error("QEMU's monitor failed, ending it", "error", q.failure())
			_ = v.child.Kill()
		}
	}()
}

func (v *vm) monitor() *qmp {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.qmp
}

// Dial implements driver.VM.
func (v *vm) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if v.cid != 0 {
		conn, err := dialVsock(ctx, v.cid, port, v.done)
		if err == nil && port == driver.AgentPort {
			v.sawGuest()
		}
		return conn, err
	}
	if port != driver.AgentPort {
		return nil, driver.ErrNoSuchPort
	}
	conn, err := v.port.dial(ctx, v.monitor())
	if err == nil {
		v.sawGuest()
	}
	return conn, err
}

func (v *vm) sawGuest() {
	v.mu.Lock()
	v.connected = true
	v.mu.Unlock()
}

// Shutdown implements driver.VM. The guest notices only if it has a driver for the button and a
// program that listens. Debian's cloud kernel has the driver as modules ("button", "evdev"), which
// our initramfs does not load: every boot would pay for them, and the program could only be the
// agent, which has the channel to be told by; an agent that does not answer there would not
// listen to a button either.
func (v *vm) Shutdown(ctx context.Context) error {
	_, err := v.monitor().execute(ctx, "system_powerdown", nil)
	if errors.Is(err, errQMPClosed) {
		return nil // it is ending or has ended
	}
	return err
}

// Pause implements driver.Pauser.
func (v *vm) Pause(ctx context.Context) error {
	v.ills.ask(true)
	_, err := v.monitor().execute(ctx, "stop", nil)
	if err != nil {
		v.ills.ask(false)
	}
	return err
}

// Resume implements driver.Pauser.
func (v *vm) Resume(ctx context.Context) error {
	_, err := v.monitor().execute(ctx, "cont", nil)
	if err == nil {
		v.ills.ask(false)
	}
	return err
}

// Kill implements driver.VM.
func (v *vm) Kill() error {
	v.mu.Lock()
	select {
	case <-v.child.Exited: // how it ended is settled, and its number may be another's
		v.mu.Unlock()
		return nil
	default:
		v.killed = true
	}
	v.mu.Unlock()
	if v.group {
		return v.child.KillGroup()
	}
	return v.child.Kill()
}

// Wait implements driver.VM.
func (v *vm) Wait() error {
	<-v.done
	return v.err
}

// Pid implements driver.ProcessOwner.
func (v *vm) Pid() int { return v.child.Pid }
