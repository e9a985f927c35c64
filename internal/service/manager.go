//go:build unix

package service

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

// Options are what a Manager needs.
type Options struct {
	Procs    *guestproc.Table
	Resolver guestproc.Resolver
	// Output returns where a service's output goes; source is the service's name, stream "out"
	// or "err".
	Output func(source, stream string) io.Writer
	Event  func(agentproto.Event) // hears of every change; may be nil
}

// Manager runs one guest's services and checks.
type Manager struct {
	opts   Options
	cancel context.CancelFunc
	ctx    context.Context // ends the checks and the back-off pauses
	checks sync.WaitGroup

	mu       sync.Mutex
	services []*runner // in the order in which they were started
	probes   []*prober
	stopped  bool
}

// New returns a manager that does nothing until Start.
func New(o Options) *Manager {
	ctx, cancel := context.WithCancel(context.Background())
	if o.Event == nil {
		o.Event = func(agentproto.Event) {}
	}
	return &Manager{opts: o, ctx: ctx, cancel: cancel}
}

// Start starts the services, in order, without waiting for each, and the checks.
func (m *Manager) Start(services []agentproto.Service, checks []agentproto.Check) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return
	}
	for _, s := range services {
		r := &runner{m: m, spec: s, stop: make(chan struct{}), done: make(chan struct{}), status: agentproto.ServiceStatus{Name: s.Name, State: "starting", Since: time.Now()}}
		m.services = append(m.services, r)
		go m.guarded(r.run, func(why string) { r.set("failed", why, nil) })
	}
	for _, c := range checks {
		p := newProber(m, c)
		m.probes = append(m.probes, p)
		m.checks.Go(func() { m.guarded(func() { p.run(m.ctx) }, func(why string) { p.judge(126, "", errors.New(why)) }) })
	}
}

// guarded runs do; a panic goes to the output of the agent and ends nothing else.
func (m *Manager) guarded(do func(), ended func(why string)) {
	guestproc.Guard(func(text string) {
		out := m.opts.Output("agent", "err")
		_, _ = io.WriteString(out, text) // as with a service's own output, a writer that fails is left out
		if c, ok := out.(io.Closer); ok {
			_ = c.Close()
		}
		ended("the agent met a bug of its own; its output has more")
	}, do)
}

// Status returns the state of every service, in start order.
func (m *Manager) Status() []agentproto.ServiceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]agentproto.ServiceStatus, 0, len(m.services))
	for _, r := range m.services {
		out = append(out, r.state())
	}
	return out
}

// CheckStatus returns the state of every check.
func (m *Manager) CheckStatus() []agentproto.CheckStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]agentproto.CheckStatus, 0, len(m.probes))
	for _, p := range m.probes {
		out = append(out, p.state())
	}
	return out
}

// Stop ends the checks, then the services in reverse order: each gets its stop signal, and its
// whole group SIGKILL when its own time has passed or its share of grace: what is left of it,
// divided among those that are left. So all end within grace, one that hangs does not take the
// time of those it leans on, and one that ends at once leaves its share to them. Stop returns
// when all are gone or, with their groups killed, when ctx ends.
func (m *Manager) Stop(ctx context.Context, grace time.Duration) {
	m.mu.Lock()
	m.stopped = true
	services := slices.Clone(m.services)
	m.mu.Unlock()
	m.cancel()
	m.checks.Wait()
	deadline := time.Now().Add(grace)
	for i, r := range slices.Backward(services) {
		r.end(ctx, max(0, time.Until(deadline))/time.Duration(i+1))
	}
}
