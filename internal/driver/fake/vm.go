package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// channelFD is the agent's end of the socket pair in the child: its first inherited descriptor.
const channelFD = 3

// markVar is in the environment of every process of a guest, so that those which outlive the
// agent are found and ended: a real VMM takes its guest's processes with it.
const markVar = "MVM_FAKE_GUEST"

// drainTimeout bounds how long the last output of a guest that has ended is waited for.
const drainTimeout = time.Second

var errEnded = errors.New("the machine has ended")

// vm implements driver.VM.
type vm struct {
	dir   string
	fault Fault
	pid   int
	proc  *os.Process

	mu     sync.Mutex
	host   *os.File // our end of the socket pair, until it is dialled
	killed bool     // an end was asked for
	ended  chan struct{}
	err    error // valid once ended is closed
}

var (
	_ driver.VM           = (*vm)(nil)
	_ driver.ProcessOwner = (*vm)(nil)
	_ driver.Pauser       = (*vm)(nil)
)

// start makes the guest's files and runs the agent. On error the caller removes the files.
func (v *vm) start(b machine.Boot, out driver.Output) error {
	if out.Console == nil {
		out.Console = io.Discard
	}
	if out.VMM == nil {
		out.VMM = io.Discard
	}
	if err := exportDrives(b, v.dir, v.fault); err != nil {
		return err
	}
	host, guest, err := socketPair()
	if err != nil {
		return err
	}
	defer func() { _ = guest.Close() }() // the child has its own by then
	output, input, err := os.Pipe()
	if err != nil {
		_ = host.Close()
		return fmt.Errorf("making the console: %w", err)
	}
	defer func() { _ = input.Close() }()
	cmd := v.command(b)
	cmd.ExtraFiles = []*os.File{guest}
	cmd.Stdout, cmd.Stderr = input, input
	cmd.SysProcAttr = childAttr()
	v.host = host
	exited, err := v.run(cmd)
	if err != nil {
		_ = host.Close()
		_ = output.Close()
		if errors.Is(err, os.ErrNotExist) {
			return machine.Errorf("agent.missing", "just build", "starting the guest agent: %w", err)
		}
		return fmt.Errorf("starting the guest agent: %w", err)
	}
	if out.Began != nil {
		out.Began(v.pid)
	}
	_, _ = io.WriteString(out.VMM, "fake: started the agent as a process\n")
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		copyAll(out.Console, output)
	}()
	go v.reap(exited, output, drained)
	return nil
}

// run starts cmd from a thread that lives as long as it does: a parent-death signal is sent
// when the thread that forked ends (prctl(2)), not when the process does.
func (v *vm) run(cmd *exec.Cmd) (<-chan error, error) {
	fence()
	started, exited := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		v.pid, v.proc = cmd.Process.Pid, cmd.Process
		started <- nil
		exited <- cmd.Wait()
	}()
	return exited, <-started
}

// copyAll reads until the end whatever becomes of the writer.
func copyAll(w io.Writer, r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			_, _ = w.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// command is the agent, or for some faults a program that only plays one.
func (v *vm) command(b machine.Boot) *exec.Cmd {
	args := []string{
		b.Agent, "serve", "--config-dir", filepath.Join(v.dir, "config"), "--root", filepath.Join(v.dir, "root"),
		"--bin", filepath.Join(v.dir, "bin"), "--channel-fd", strconv.Itoa(channelFD),
	}
	switch v.fault {
	case FaultNeverAnswer:
		args = []string{b.Agent, "sh", "-c", "echo booting; echo stuck here; sleep 1000000"}
	case FaultDieEarly:
		args = []string{b.Agent, "sh", "-c", "echo kernel panic: no init found; exit 3"}
	case FaultFlood:
		const script = `(while :; do echo "flood flood flood flood flood flood flood"; done) & exec "$@"`
		args = append([]string{"/bin/sh", "-c", script, "sh"}, args...)
	case FaultNone, FaultWrongKey, FaultBusyDisk:
	}
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...) // its life is the machine's, not a call's
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/", markVar + "=" + v.dir}
	return cmd
}

// reap ends the machine when its process has ended.
func (v *vm) reap(exited <-chan error, output *os.File, drained <-chan struct{}) {
	err := <-exited
	endMarked(markVar + "=" + v.dir) // they also hold the console open
	timer := time.NewTimer(drainTimeout)
	select {
	case <-drained:
	case <-timer.C:
	}
	timer.Stop()
	_ = output.Close()
	<-drained
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil && !v.killed {
		v.err = machine.Errorf("boot.vmm_died", "look at the console log", "the guest agent ended: %w", err)
	}
	if v.host != nil {
		_ = v.host.Close()
		v.host = nil
	}
	if err := os.RemoveAll(v.dir); err != nil && v.err == nil {
		v.err = fmt.Errorf("removing the guest's files: %w", err)
	}
	close(v.ended)
}

// Dial implements driver.VM. The pipe is there from the start and can be used once: the agent
// serves one inherited connection.
func (v *vm) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if port != driver.AgentPort {
		return nil, fmt.Errorf("port %d: %w", port, driver.ErrNoSuchPort)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("waiting for the guest: %w", err)
	}
	v.mu.Lock()
	var f *os.File
	if v.fault != FaultNeverAnswer {
		f, v.host = v.host, nil
	}
	v.mu.Unlock()
	if f == nil {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the guest: %w", ctx.Err())
		case <-v.ended:
			return nil, errEnded
		}
	}
	defer func() { _ = f.Close() }() // FileConn duplicates it
	return net.FileConn(f)
}

// Shutdown implements driver.VM: the power button of a process is SIGTERM.
func (v *vm) Shutdown(context.Context) error { return v.signal(syscall.SIGTERM) }

// Kill implements driver.VM.
func (v *vm) Kill() error { return v.signal(syscall.SIGKILL) }

func (v *vm) signal(s syscall.Signal) error {
	v.mu.Lock()
	select {
	case <-v.ended:
		v.mu.Unlock()
		return nil
	default:
	}
	v.killed = true
	v.mu.Unlock()
	if err := v.proc.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signalling the guest agent: %w", err)
	}
	return nil
}

// Pause implements driver.Pauser, for the agent: what it has started goes on.
func (v *vm) Pause(context.Context) error { return v.turn(syscall.SIGSTOP) }

// Resume implements driver.Pauser.
func (v *vm) Resume(context.Context) error { return v.turn(syscall.SIGCONT) }

func (v *vm) turn(s syscall.Signal) error {
	select {
	case <-v.ended:
		return errEnded
	default:
		return v.proc.Signal(s)
	}
}

// Wait implements driver.VM.
func (v *vm) Wait() error {
	<-v.ended
	return v.err
}

// Pid implements driver.ProcessOwner.
func (v *vm) Pid() int { return v.pid }

// socketPair makes the byte pipe between host and guest.
func socketPair() (host, guest *os.File, err error) {
	syscall.ForkLock.RLock() // no child may start between the steps
	defer syscall.ForkLock.RUnlock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making the channel: %w", err)
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	return os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel"), nil
}
