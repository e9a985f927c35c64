//go:build unix

package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

// How long the agent waits, after the main program has ended, for the host to fetch what it
// wants and to order the shutdown.
const (
	endWait     = 10 * time.Second
	endWaitLost = 5 * time.Second // when no host is connected
)

// mainProgram is the program the machine is for. Its output goes to the log and, while a host
// is attached, to that host too, which can then slow it down; a host that goes away does not
// end it.
type mainProgram struct {
	agent *Agent
	spec  agentproto.Main
	begun chan struct{} // closed when it has been started, or shall not start any more
	ended chan struct{} // closed when it has ended and its output is drained

	mu       sync.Mutex
	state    string   // "waiting", "running", "exited"
	prog     *program // while running
	exit     agentproto.Exit
	attached *stream // held until its handler has let go of the program's input
	muted    bool    // that host is gone already: output goes to the log only
}

func newMain(a *Agent, spec agentproto.Main) *mainProgram {
	return &mainProgram{agent: a, spec: spec, state: "waiting", begun: make(chan struct{}), ended: make(chan struct{})}
}

func (m *mainProgram) status() *agentproto.MainStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &agentproto.MainStatus{State: m.state, ExitCode: m.exit.Code}
	if m.prog != nil {
		s.Pid = m.prog.proc.Pid()
	}
	return s
}

// failure says why the program could not be started; nil when it could, or was not yet. m may be
// nil.
func (m *mainProgram) failure() *agentproto.Error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exit.Error
}

// MainBegun returns a channel that is closed when the main program has been started, or shall
// not be; at once where there is none.
func (a *Agent) MainBegun() <-chan struct{} {
	if a.main == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return a.main.begun
}

// start starts the program if it has not been started before.
func (m *mainProgram) start(at agentproto.AttachStart) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != "waiting" {
		return
	}
	a := m.agent
	defer close(m.begun)
	startProgram := a.startExec
	if m.spec.Init {
		startProgram = m.startInit
	}
	if m.spec.MakeDir && a.opts.Root == "/" {
		// As Docker does. What goes wrong is the error of the start: the folder is missing.
		_ = os.MkdirAll(m.spec.Dir, 0o755)
	}
	p, err := startProgram(agentproto.ExecStart{
		Process: m.spec.Process, TTY: m.spec.TTY && m.spec.Attach,
		Stdin: at.Stdin, Rows: at.Rows, Cols: at.Cols, Term: at.Term,
	})
	if err != nil {
		m.state, m.exit = "exited", failedExit(err)
		a.logf("err", "starting the main program: %s", err.Message)
		m.report(m.exit)
		close(m.ended)
		go m.afterwards()
		return
	}
	m.state, m.prog = "running", p
	a.opts.Events.Add(agentproto.Event{Type: "main", State: "running"})
	out := a.opts.Log.Writer("main", "out")
	errOut := a.opts.Log.Writer("main", "err")
	p.pump(a, func(t agentproto.RecordType, b []byte) error {
		if t == agentproto.RecStderr {
			_, _ = errOut.Write(b) // a log never fails
		} else {
			_, _ = out.Write(b)
		}
		m.forward(t, b)
		return nil
	}, func(*agentproto.Error) { p.proc.Stop(syscall.SIGKILL, 0) })
	go func() {
		p.wait()
		for _, w := range []io.Writer{out, errOut} {
			if c, ok := w.(io.Closer); ok {
				c.Close()
			}
		}
		p.close()
		m.mu.Lock()
		m.state, m.exit, m.prog = "exited", p.proc.Exit(), nil
		if m.spec.Init {
			m.exit = initExit(m.exit)
		}
		exit := m.exit
		m.mu.Unlock()
		m.report(exit) // before anybody who waits for it can end the guest
		close(m.ended)
		m.afterwards()
	}()
}

// forward passes output on to the attached host. It does not hold the lock while it waits
// for that host.
func (m *mainProgram) forward(t agentproto.RecordType, b []byte) {
	m.mu.Lock()
	s, muted := m.attached, m.muted
	m.mu.Unlock()
	if s == nil || muted || s.write(t, b) == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attached == s {
		m.muted = true
	}
}

func (m *mainProgram) detach(s *stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attached == s {
		m.attached = nil
	}
}

// report tells the host of the end.
func (m *mainProgram) report(exit agentproto.Exit) {
	e := agentproto.Event{Type: "main", State: "exited", ExitCode: &exit.Code}
	if exit.Error != nil {
		e.Message = exit.Error.Message
	}
	m.agent.opts.Events.Add(e)
}

// afterwards ends the machine if the host does not.
func (m *mainProgram) afterwards() {
	a := m.agent
	wait := endWait
	if a.conns.Load() == 0 {
		wait = endWaitLost
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-a.stopping:
	case <-t.C:
		a.logf("out", "the main program has ended and no host asked for a shutdown: powering off")
		a.shutdown(agentproto.ShutdownRequest{})
	}
}

// end stops a running program.
func (m *mainProgram) end(grace time.Duration) {
	m.mu.Lock()
	p := m.prog
	if m.state == "waiting" {
		m.state = "exited" // it shall not start any more
		m.exit = agentproto.Exit{Code: 128 + int(syscall.SIGTERM), Signal: "SIGTERM"}
		close(m.begun)
		close(m.ended)
	}
	m.mu.Unlock()
	if p != nil {
		sig := m.stopSignal()
		if m.spec.Init {
			grace = awaitHandler(p.proc, sig, grace)
		}
		p.proc.Stop(sig, grace)
	}
	<-m.ended
}

// stopSignal is the signal that the image names for its program, or SIGTERM.
func (m *mainProgram) stopSignal() syscall.Signal {
	if m.spec.StopSignal == "" {
		return syscall.SIGTERM
	}
	sig, err := guestproc.ParseSignal(m.spec.StopSignal)
	if err != nil {
		return syscall.SIGTERM // also of a signal that only means something to another init
	}
	return sig
}

var errAttached = errors.New("somebody is attached")

// attach makes s the attached host and starts the program if it waits for one. It returns the
// program, nil when it has ended.
func (m *mainProgram) attach(s *stream, at agentproto.AttachStart) (*program, error) {
	m.mu.Lock()
	if m.attached != nil {
		m.mu.Unlock()
		return nil, errAttached
	}
	if m.state == "exited" {
		m.mu.Unlock()
		return nil, nil
	}
	m.attached, m.muted = s, false
	m.mu.Unlock()
	m.start(at)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.prog, nil
}

func (a *Agent) serveMain(w http.ResponseWriter, r *http.Request) {
	m := a.main
	if m == nil {
		refuse(w, agentproto.Errorf(agentproto.CodeNoMain, "use mvmctl exec or mvmctl console", "this machine has no main program"))
		return
	}
	var at agentproto.AttachStart
	s, ok := openStream(w, r, &at)
	if !ok {
		return
	}
	defer s.close()
	// Until the program's id has been sent, its output waits.
	s.mu.Lock()
	p, err := m.attach(s, at)
	if p != nil {
		_ = s.out.WriteJSON(agentproto.RecStarted, agentproto.Started{Pid: p.proc.Pid()})
		_ = s.rc.Flush() // if the host is gone, the next write says so
	}
	s.mu.Unlock()
	if err != nil {
		refuse(w, agentproto.Errorf(agentproto.CodeMainAttached, "use mvmctl logs to watch it", "somebody else is attached to the main program"))
		return
	}
	defer m.detach(s)
	if p != nil {
		m.converse(s, p, at)
	}
	select {
	case <-m.ended:
		m.mu.Lock()
		exit := m.exit
		m.mu.Unlock()
		s.exit(exit)
	default: // the host is gone
	}
}

// converse passes the host's records on until the program has ended or the host is gone.
func (m *mainProgram) converse(s *stream, p *program, at agentproto.AttachStart) {
	broken, breaks := context.WithCancel(context.Background())
	defer breaks()
	in := &input{agent: m.agent, s: s, p: p, taken: at.Stdin, active: func() {}, broken: func(e *agentproto.Error) {
		m.agent.logf("err", "the host attached to the main program was let go: %s", e.Message)
		breaks()
	}}
	var reader sync.WaitGroup
	reader.Go(func() { m.agent.guarded(in.broken, in.run) })
	select {
	case <-m.ended:
	case <-s.ctx.Done():
	case <-broken.Done():
	}
	s.stopReading()
	reader.Wait()
	if p.stdin != nil {
		p.stdin.SetWriteDeadline(time.Unix(1, 0)) // wakes the feeder; the program goes on
	}
	in.wait()
	if p.stdin != nil {
		p.stdin.SetWriteDeadline(time.Time{})
	}
}
