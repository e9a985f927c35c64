//go:build unix

package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

// Defaults of a service that does not say otherwise.
const (
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 30 * time.Second
	startGrace   = time.Second
	steadyFactor = 10              // running this many start graces makes the next pause short again
	preStartTime = 5 * time.Minute // a pre-start command that takes longer has failed
	outputLinger = 2 * time.Second // for output that a process outside the service's session holds open
	maxLogFile   = 16 << 20        // bytes of a service's own log file; then it begins anew
	copyChunk    = 32 << 10
)

// runner keeps one service running.
type runner struct {
	m    *Manager
	spec agentproto.Service
	stop chan struct{} // closed when it shall not run any more
	once sync.Once
	done chan struct{} // closed when it does not

	mu     sync.Mutex
	proc   *guestproc.Proc
	status agentproto.ServiceStatus
}

func (r *runner) state() agentproto.ServiceStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// set changes the status and tells.
func (r *runner) set(state, message string, change func(*agentproto.ServiceStatus)) {
	r.mu.Lock()
	r.status.State, r.status.Message, r.status.Since = state, message, time.Now()
	if change != nil {
		change(&r.status)
	}
	ev := agentproto.Event{Type: "service", Name: r.spec.Name, State: state, Message: message}
	if code := r.status.ExitCode; state != "starting" && state != "running" {
		ev.ExitCode = &code
	}
	r.mu.Unlock()
	r.m.opts.Event(ev)
}

func (r *runner) run() {
	defer close(r.done)
	pause := firstBackoff
	for {
		began := time.Now()
		exit, err := r.startOnce()
		if r.stopping() {
			r.set("stopped", "", nil)
			return
		}
		why := fmt.Sprintf("ended with exit code %d", exit.Code)
		if err != nil {
			why = err.Error()
		}
		if !r.again(exit, err) {
			state := "stopped"
			if exit.Code != 0 || err != nil {
				state = "failed"
			}
			r.set(state, why, nil)
			return
		}
		if time.Since(began) >= steadyFactor*r.spec.StartGrace.Or(startGrace) {
			pause = firstBackoff
		}
		r.set("backoff", fmt.Sprintf("%s; starting again in %s", why, pause), func(s *agentproto.ServiceStatus) { s.Restarts++ })
		select {
		case <-time.After(pause):
		case <-r.stop:
			r.set("stopped", "", nil)
			return
		}
		pause = min(2*pause, r.spec.BackoffMax.Or(maxBackoff))
		r.set("starting", "", nil)
	}
}

// again decides whether an ended service is started again.
func (r *runner) again(exit agentproto.Exit, err error) bool {
	if r.spec.MaxRestarts > 0 && r.state().Restarts >= r.spec.MaxRestarts {
		return false
	}
	switch r.spec.Restart {
	case "never":
		return false
	case "on-failure":
		return exit.Code != 0 || err != nil
	}
	return true
}

func (r *runner) stopping() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// startOnce runs the pre-start command and then the service, to its end.
func (r *runner) startOnce() (agentproto.Exit, error) {
	if len(r.spec.PreStart) > 0 {
		pre := r.spec.Process
		pre.Args = r.spec.PreStart
		exit, err := r.start(pre, preStartTime, nil)
		if err != nil {
			return exit, fmt.Errorf("pre-start: %w", err)
		}
		if exit.Code != 0 {
			return exit, fmt.Errorf("pre-start ended with exit code %d", exit.Code)
		}
	}
	if r.stopping() {
		return agentproto.Exit{}, nil
	}
	return r.start(r.spec.Process, 0, func(pid int) {
		r.set("running", "", func(s *agentproto.ServiceStatus) { s.Pid = pid })
	})
}

// start runs one program to its end with its output going where the service's does.
func (r *runner) start(p agentproto.Process, limit time.Duration, running func(pid int)) (agentproto.Exit, error) {
	spec, perr := r.m.opts.Resolver.Resolve(p)
	if perr != nil {
		return agentproto.Exit{Code: 127}, perr
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return agentproto.Exit{Code: 126}, err
	}
	defer func() { _ = null.Close() }()
	file, err := r.logFile()
	if err != nil {
		return agentproto.Exit{Code: 126}, err
	}
	defer func() { _ = file.Close() }()
	out, outDone, err := r.m.pumpTo(r.m.opts.Output(r.spec.Name, "out"), file)
	if err != nil {
		return agentproto.Exit{Code: 126}, err
	}
	errOut, errDone, err := r.m.pumpTo(r.m.opts.Output(r.spec.Name, "err"), file)
	if err != nil {
		_ = out.Close()
		return agentproto.Exit{Code: 126}, err
	}
	spec.Stdin, spec.Stdout, spec.Stderr = null, out, errOut
	spec.KillRest = true // what it leaves behind would hold its ports and files against the next start
	proc, err := r.m.opts.Procs.Start(spec)
	_ = out.Close()
	_ = errOut.Close()
	if err != nil {
		return agentproto.Exit{Code: 126}, err
	}
	r.mu.Lock()
	r.proc = proc
	r.mu.Unlock()
	if running != nil {
		running(proc.Pid())
	}
	r.await(proc, limit)
	r.mu.Lock()
	r.proc, r.status.Pid, r.status.ExitCode = nil, 0, proc.Exit().Code
	r.mu.Unlock()
	linger := time.After(outputLinger)
	for _, done := range []<-chan struct{}{outDone, errDone} {
		select {
		case <-done:
		case <-linger:
		}
	}
	return proc.Exit(), nil
}

// await returns when the program has ended: by itself, by its limit, or because it shall stop.
func (r *runner) await(proc *guestproc.Proc, limit time.Duration) {
	var expired <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-proc.Done():
	case <-expired:
		proc.Stop(syscall.SIGKILL, 0)
	case <-r.stop:
		<-proc.Done() // end is stopping it
	}
	<-proc.Done()
}

// end stops the service.
func (r *runner) end(ctx context.Context, grace time.Duration) {
	r.once.Do(func() { close(r.stop) })
	if own := time.Duration(r.spec.StopTimeout); own > 0 && own < grace {
		grace = own
	}
	deadline := time.Now().Add(grace)
	for {
		r.mu.Lock()
		proc := r.proc
		r.mu.Unlock()
		if proc != nil {
			proc.Stop(stopSignal(r.spec.StopSignal), max(0, time.Until(deadline)))
		}
		select {
		case <-r.done:
			return
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond): // between two programs of one start
		}
	}
}

func stopSignal(name string) syscall.Signal {
	switch name {
	case "SIGINT":
		return syscall.SIGINT
	case "SIGQUIT":
		return syscall.SIGQUIT
	case "SIGHUP":
		return syscall.SIGHUP
	case "SIGKILL":
		return syscall.SIGKILL
	case "SIGUSR1":
		return syscall.SIGUSR1
	case "SIGUSR2":
		return syscall.SIGUSR2
	}
	return syscall.SIGTERM
}

// logFile is the service's own log file, or a writer that drops everything.
func (r *runner) logFile() (io.WriteCloser, error) {
	if r.spec.LogFile == "" {
		return dropped{}, nil
	}
	f, err := os.OpenFile(r.spec.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("opening its log file: %w", err)
	}
	if info, err := f.Stat(); err == nil && info.Size() > maxLogFile {
		err = f.Truncate(0)
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("cutting its log file: %w", err)
		}
	}
	return f, nil
}

type dropped struct{}

func (dropped) Write(p []byte) (int, error) { return len(p), nil }
func (dropped) Close() error                { return nil }

// pumpTo returns the write end of a pipe whose bytes go to both writers. A writer that fails is
// left out; the program must not notice.
func (m *Manager) pumpTo(writers ...io.Writer) (*os.File, <-chan struct{}, error) {
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = pr.Close() }()
		m.guarded(func() { pumpAll(pr, writers) }, func(string) {})
	}()
	return pw, done, nil
}

func pumpAll(from io.Reader, writers []io.Writer) {
	buf := make([]byte, copyChunk)
	for {
		n, err := from.Read(buf)
		for _, w := range writers {
			_, _ = w.Write(buf[:n])
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}
