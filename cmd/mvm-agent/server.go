package main

import (
	"context"
	"net"
	"time"

	"github.com/mvmctl/mvmctl/internal/agent"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

// server is what PID 1 and the plain process have in common: the agent and the services.
type server struct {
	config   *agentproto.Config
	procs    *guestproc.Table
	resolver guestproc.Resolver
	root     string // that copies are confined to; "": /
	upper    string
	lower    string
	slow     bool
	shell    []string
	powerOff func(reboot bool)
	setClock func(time.Time) error
	timings  func() []agentproto.Timing

	agent *agent.Agent
}

func newServer(s server) *server {
	log, events := agent.NewLog(), agent.NewEvents()
	log.Add("agent", "out", "agent "+version+" is up, machine "+s.config.Name)
	s.agent = agent.New(agent.Options{
		Config: s.config, Build: version, Procs: s.procs, Resolver: s.resolver, Root: s.root, Upper: s.upper, Lower: s.lower,
		Log: log, Events: events, PowerOff: s.powerOff, SetClock: s.setClock, Timings: s.timings, Shell: s.shell, Slow: s.slow,
	})
	return &s
}

// run serves until ctx ends or the listener closes.
func (s *server) run(ctx context.Context, ln net.Listener) error { return s.agent.Serve(ctx, ln) }
