package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// child is a running Firecracker.
type child struct {
	pid    int
	proc   *os.Process
	exited chan struct{} // closed once it has ended and was waited for
	state  *os.ProcessState
}

// startChild starts a program with nothing but its three standard descriptors.
//
// A parent-death signal is sent when the *thread* that forked ends (prctl(2)), and Go ends
// threads as it likes. So one goroutine, locked to its thread, starts the process and stays
// until it has ended: then only the death of this whole process can trigger the signal.
func startChild(argv []string, jailed bool, stdout, stderr *os.File) (*child, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("opening null device: %w", err)
	}
	defer func() { _ = null.Close() }()
	// Its life is the machine's and not bounded by any call's context.
	cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...)
	cmd.Env = cleanEnv()
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, stdout, stderr
	cmd.SysProcAttr = childAttr(jailed)
	fence()
	c := &child{exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		c.pid, c.proc = cmd.Process.Pid, cmd.Process
		started <- nil
		_ = cmd.Wait() // the state says more than the error
		c.state = cmd.ProcessState
		close(c.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// kill ends the process with SIGKILL; where the kernel has pidfds, os.Process uses one, so a
// pid that was given to another process meanwhile is not hit.
func (c *child) kill() error {
	if err := c.proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing Firecracker: %w", err)
	}
	return nil
}

// well reports whether the process ended by itself and without an error; valid once exited is
// closed. Firecracker does so when the guest resets.
func (c *child) well() bool { return c.state != nil && c.state.Success() }

// end describes how the process ended; valid once exited is closed.
func (c *child) end() string {
	if c.state == nil {
		return "ended"
	}
	if ws, ok := c.state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		if ws.Signal() == syscall.SIGSYS {
			return "was killed by its own seccomp filter (SIGSYS)"
		}
		return fmt.Sprintf("was killed by signal %d (%v)", ws.Signal(), ws.Signal())
	}
	code := c.state.ExitCode()
	if code == 128+int(syscall.SIGSYS) { // as the shell around a jail tells it
		return "was killed by its own seccomp filter (SIGSYS)"
	}
	return fmt.Sprintf("ended with exit code %d", code)
}
