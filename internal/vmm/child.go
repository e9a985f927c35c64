package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// FirstFD is the number of the first of Command.Inherit in the child, after the standard three.
const FirstFD = 3

// Command says how a VMM is started. It gets exactly the given descriptors and an empty standard
// input.
type Command struct {
	Name           string // for people: "QEMU"
	Argv           []string
	Inherit        []*os.File
	Stdout, Stderr *os.File
	Remedy         string // how to get the program, when it cannot be run

	Dir string   // its working folder; "": the root
	Env []string // its whole environment; nil: CleanEnv

	// Began, if it is not nil, hears the child's pid. On a system where the child outlives a parent that
	// is killed, and with Gated on all, the program is not run before it has returned.
	Began func(pid int)
	Gated bool

	// Namespaces makes the child the init process of a process id namespace and gives it a mount
	// namespace: all that it starts ends with it, and its mounts too. Linux only, as root.
	Namespaces bool
}

// Child is a VMM that runs, or has.
type Child struct {
	Pid    int
	Exited chan struct{} // closed once it has ended and was waited for

	cmd   Command
	proc  *os.Process
	state *os.ProcessState
}

// Start starts it.
//
// A parent-death signal is sent when the *thread* that forked ends (prctl(2)), and Go ends
// threads as it likes. So one goroutine, locked to its thread, starts the process and stays
// until it has ended: then only the death of this whole process can trigger the signal.
func (c Command) Start() (*Child, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("opening null device: %w", err)
	}
	defer func() { _ = null.Close() }()
	// Its life is the machine's and not bounded by any call's context.
	cmd := exec.CommandContext(context.Background(), c.Argv[0], c.Argv[1:]...)
	cmd.Env, cmd.Dir = c.Env, c.Dir
	if c.Env == nil {
		cmd.Env = CleanEnv()
	}
	if c.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, c.Stdout, c.Stderr
	open := func() {}
	if c.Began != nil && (c.Gated || outlives) {
		if err := executable(c.Argv[0]); err != nil {
			return nil, c.startError(err)
		}
		theirs, gate, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("making a pipe: %w", err)
		}
		defer func() { _ = gate.Close() }()
		defer func() { _ = theirs.Close() }()
		cmd.Path, cmd.Args, cmd.Err, cmd.Stdin = shell, append([]string{shell, "-c", gateScript, shell}, c.Argv...), nil, theirs
		open = func() { _, _ = gate.WriteString("\n") }
	}
	cmd.ExtraFiles = c.Inherit
	cmd.SysProcAttr = childAttr(c.Namespaces)
	fence()
	child := &Child{Exited: make(chan struct{}), cmd: c}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		child.Pid, child.proc = cmd.Process.Pid, cmd.Process
		started <- nil
		_ = cmd.Wait() // the state says more than the error
		child.state = cmd.ProcessState
		close(child.Exited)
	}()
	if err := <-started; err != nil {
		return nil, c.startError(err)
	}
	if c.Began != nil {
		c.Began(child.Pid)
	}
	open()
	return child, nil
}

// The gate through which a program comes that waits until its pid is noted: the same process, which
// becomes the program once there is a line on its input, and ends at an end of it, which the death of
// its parent brings about.
const (
	shell      = "/bin/sh"
	gateScript = `read -r line && exec "$@" </dev/null`
)

// executable is what exec would say of a program, which from behind the gate nobody hears.
func executable(path string) error {
	path, err := exec.LookPath(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	return err
}

// startError explains why a program could not be started.
func (c Command) startError(err error) error {
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return machine.Errorf("limit.processes", "stop some machines, or raise the limits on processes and memory", "starting %s: %w", c.Name, err)
	}
	return Missing(c.Argv[0], c.Remedy, err)
}

// Kill ends the process with SIGKILL; where the kernel has pidfds, os.Process uses one, so a
// pid that was given to another process meanwhile is not hit.
func (c *Child) Kill() error {
	if err := c.proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing %s: %w", c.cmd.Name, err)
	}
	return nil
}

// KillGroup ends the process and whatever is left in its process group, which is its own, with
// SIGKILL. The group's number is nobody else's: what is left of it keeps it taken, and one that
// has just fallen free is handed out last.
func (c *Child) KillGroup() error {
	err := syscall.Kill(-c.Pid, syscall.SIGKILL)
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing %s: %w", c.cmd.Name, err)
	}
	return nil
}

// Ended reports whether Exited is closed.
func (c *Child) Ended() bool {
	select {
	case <-c.Exited:
		return true
	default:
		return false
	}
}

// Well reports whether the process ended by itself and without an error; valid once Exited is
// closed.
func (c *Child) Well() bool { return c.state != nil && c.state.Success() }

// End describes how the process ended; valid once Exited is closed.
func (c *Child) End() string {
	const filtered = "was killed by its own seccomp filter (SIGSYS)"
	if c.state == nil {
		return "ended"
	}
	if ws, ok := c.state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		if ws.Signal() == syscall.SIGSYS {
			return filtered
		}
		return fmt.Sprintf("was killed by signal %d (%v)", ws.Signal(), ws.Signal())
	}
	code := c.state.ExitCode()
	if c.cmd.Namespaces && code == 128+int(syscall.SIGSYS) { // as a shell around it tells it
		return filtered
	}
	return fmt.Sprintf("ended with exit code %d", code)
}

// wasKilled reports whether an error is of a process that was ended with SIGKILL, as a host without
// memory does it: End's words.
func wasKilled(err error) bool {
	return strings.Contains(err.Error(), fmt.Sprintf("was killed by signal %d ", syscall.SIGKILL))
}

// CopyAll reads until the end whatever becomes of the writer: a guest whose console nobody reads
// stands still.
func CopyAll(w io.Writer, r io.Reader) {
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
