//go:build unix

package service

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Defaults of a check that does not say otherwise.
const (
	checkInterval = 10 * time.Second
	checkTimeout  = 5 * time.Second
	checkRetries  = 3
	checkOutput   = 2 << 10 // bytes of a check's output that are kept
	minInterval   = 100 * time.Millisecond
)

// prober runs one check again and again.
type prober struct {
	m     *Manager
	spec  agentproto.Check
	began time.Time

	mu     sync.Mutex
	status agentproto.CheckStatus
}

func newProber(m *Manager, c agentproto.Check) *prober {
	kind := c.Kind
	if kind == "" {
		kind = "health"
	}
	return &prober{m: m, spec: c, began: time.Now(), status: agentproto.CheckStatus{Name: c.Name, Kind: kind, Service: c.Service, State: "starting"}}
}

func (p *prober) state() agentproto.CheckStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// run checks until ctx ends. The first check comes at once.
func (p *prober) run(ctx context.Context) {
	interval := max(p.spec.Interval.Or(checkInterval), minInterval)
	for {
		code, output, err := p.check(ctx)
		if ctx.Err() != nil {
			return
		}
		p.judge(code, output, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
		}
	}
}

// check runs the command once. It fails when it does not end in time: its whole group is ended
// then, and its output is read all the while, so that a full pipe cannot hang it.
func (p *prober) check(ctx context.Context) (code int, output string, err error) {
	spec, perr := p.m.opts.Resolver.Resolve(agentproto.Process{Args: p.spec.Command})
	if perr != nil {
		return 127, "", perr
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 126, "", err
	}
	defer func() { _ = null.Close() }()
	kept := &lastBytes{max: checkOutput}
	out, read, err := p.m.pumpTo(kept)
	if err != nil {
		return 126, "", err
	}
	spec.Stdin, spec.Stdout, spec.Stderr = null, out, out
	spec.KillRest = true
	proc, err := p.m.opts.Procs.Start(spec)
	_ = out.Close()
	if err != nil {
		return 126, "", err
	}
	limit := p.spec.Timeout.Or(checkTimeout)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-proc.Done():
	case <-timer.C:
		err = fmt.Errorf("no end within %s", limit)
	case <-ctx.Done():
		err = ctx.Err()
	}
	proc.Stop(syscall.SIGKILL, 0) // returns at once when it has ended
	select {
	case <-read:
	case <-time.After(outputLinger):
	}
	return proc.Exit().Code, kept.text(), err
}

// judge turns one result into a state. Failures within the start-up grace do not count.
func (p *prober) judge(code int, output string, err error) {
	p.mu.Lock()
	s := &p.status
	before := s.State
	s.Last, s.Output = time.Now(), output
	switch {
	case err == nil && code == 0:
		s.State, s.Failures = "healthy", 0
	case before == "starting" && time.Since(p.began) < time.Duration(p.spec.Grace):
	default:
		retries := p.spec.Retries
		if retries <= 0 {
			retries = checkRetries
		}
		if s.Failures++; s.Failures >= retries {
			s.State = "unhealthy"
		}
	}
	if err != nil {
		s.Output = err.Error() + "\n" + s.Output
	}
	ev := agentproto.Event{Type: "check", Name: s.Name, State: s.State, ExitCode: &code}
	changed := s.State != before
	p.mu.Unlock()
	if changed {
		p.m.opts.Event(ev)
	}
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	mu  sync.Mutex
	buf []byte
	max int
}

// Write implements io.Writer.
func (l *lastBytes) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, b...)
	if over := len(l.buf) - l.max; over > 0 {
		l.buf = append(l.buf[:0], l.buf[over:]...)
	}
	return len(b), nil
}

func (l *lastBytes) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf)
}
