package main

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/mvmctl/mvmctl/internal/agent"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
	"github.com/mvmctl/mvmctl/internal/service"
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
	shared   bool // the kernel is the host's
	shell    []string
	powerOff func(reboot bool)
	setClock func(time.Time) error
	timings  func() []agentproto.Timing
	greeted  func() // the host has the answer to its hello

	agent    *agent.Agent
	services *service.Manager
	checks   []agentproto.Check
}

func newServer(s server) *server {
	log, events := agent.NewLog(), agent.NewEvents()
	log.Add("agent", "out", "agent "+version+" is up, machine "+s.config.Name)
	s.services = service.New(service.Options{
		Procs: s.procs, Resolver: s.resolver,
		Output: func(source, stream string) io.Writer { return log.Writer(source, stream) },
		Event: func(e agentproto.Event) {
			events.Add(e)
			if text := troubleOf(e); text != "" {
				log.Add("agent", "err", text)
			}
		},
	})
	root := s.root
	if root == "" {
		root = "/"
	}
	s.checks = append(service.ImageChecks(root, func(err error) { log.Add("agent", "err", "check left out: "+err.Error()) }), s.config.Checks...)
	s.agent = agent.New(agent.Options{
		Services: s.services,
		Config:   s.config, Build: version, Procs: s.procs, Resolver: s.resolver, Root: s.root, Upper: s.upper, Lower: s.lower,
		Log: log, Events: events, PowerOff: s.powerOff, SetClock: s.setClock, Timings: s.timings, Shell: s.shell, Slow: s.slow, Shared: s.shared, Greeted: s.greeted,
	})
	return &s
}

// troubleOf is the line of the log about a service that ended and was not told to, or "".
func troubleOf(e agentproto.Event) string {
	if e.Type != "service" || e.State != "backoff" && e.State != "failed" {
		return ""
	}
	return "service " + e.Name + ": " + e.Message
}

// run serves until ctx ends or the listener closes.
func (s *server) run(ctx context.Context, ln net.Listener) error {
	if m := s.config.Main; m != nil && m.Init {
		go s.startAfterInit(ctx)
	} else {
		s.services.Start(s.config.Services, s.checks)
	}
	return s.agent.Serve(ctx, ln)
}

// startAfterInit starts the services in the namespaces of the image's init.
func (s *server) startAfterInit(ctx context.Context) {
	select {
	case <-s.agent.MainBegun():
		s.services.Start(s.config.Services, s.checks)
	case <-ctx.Done():
	}
}
