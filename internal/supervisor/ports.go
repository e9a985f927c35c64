package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/forward"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// listen makes the runtime folder and binds the published ports.
func (s *supervisor) listen(ctx context.Context) error {
	if err := s.opts.Places.CheckSocket(); err != nil {
		return err
	}
	if err := s.opts.Places.MakeRuntime(); err != nil {
		return err
	}
	s.forwards = forward.NewSet(s.dialGuest, func(r forward.Rule, err error) {
		s.opts.Log.Debug("forward", "guest_port", r.GuestPort, "error", err)
	})
	bound, err := s.AddForwards(ctx, s.opts.Request.Ports)
	if err != nil {
		return err
	}
	s.update(func(st *machine.Status) { st.Ports = bound })
	return nil
}

func (s *supervisor) dialGuest(ctx context.Context, port int) (net.Conn, error) {
	s.mu.Lock()
	g, none := s.guest, s.status.NoAgent
	s.mu.Unlock()
	if none {
		return nil, machine.ErrNoAgent()
	}
	if g == nil {
		return nil, errors.New("the machine is still starting")
	}
	c := g.current()
	if c == nil {
		return nil, errors.New("the guest agent has not answered yet")
	}
	return c.Forward(ctx, "", uint16(port))
}

// Forwards implements control.Supervisor.
func (s *supervisor) Forwards() []machine.Port { return s.Status().Ports }

// AddForwards implements control.Supervisor.
func (s *supervisor) AddForwards(ctx context.Context, ports []machine.Port) ([]machine.Port, error) {
	rules := make([]forward.Rule, len(ports))
	for i, p := range ports {
		rules[i] = forward.Rule{Host: p.Host, HostPort: p.HostPort, GuestPort: p.GuestPort}
	}
	if s.Status().NoAgent {
		return nil, machine.ErrNoAgent()
	}
	bound, err := s.forwards.Add(ctx, rules)
	if err != nil {
		return nil, bindError(err)
	}
	out := make([]machine.Port, len(bound))
	for i, r := range bound {
		out[i] = machine.Port{Host: r.Host, HostPort: r.HostPort, GuestPort: r.GuestPort, Proto: "tcp"}
	}
	s.savePorts()
	return out, nil
}

func bindError(err error) error {
	var b *forward.BindError
	if !errors.As(err, &b) {
		return err
	}
	addr := fmt.Sprintf("%s:%d", b.Rule.Host, b.Rule.HostPort)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return machine.Errorf("port.in_use", fmt.Sprintf("choose another host port, or let one be picked: -p 0:%d", b.Rule.GuestPort), "host port %s is in use by another program", addr)
	case errors.Is(err, syscall.EACCES):
		return machine.Errorf("port.privileged", "choose a host port of 1024 or above", "host port %s is reserved for root", addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return machine.Errorf("port.address", "use an address of this host, such as 127.0.0.1", "%s is not an address of this host", b.Rule.Host)
	}
	return machine.Errorf("port.bind", "choose another address or port", "publishing %s: %w", addr, b.Err)
}

// RemoveForward implements control.Supervisor.
func (s *supervisor) RemoveForward(p machine.Port) error {
	if err := s.forwards.Remove(forward.Rule{Host: p.Host, HostPort: p.HostPort, GuestPort: p.GuestPort}); err != nil {
		return machine.Errorf("port.not_published", "`mvmctl forward NAME` lists the published ports", "%s is not published", p)
	}
	s.savePorts()
	return nil
}

func (s *supervisor) savePorts() {
	rules := s.forwards.List()
	ports := make([]machine.Port, len(rules))
	for i, r := range rules {
		ports[i] = machine.Port{Host: r.Host, HostPort: r.HostPort, GuestPort: r.GuestPort, Proto: "tcp"}
	}
	sortPorts(ports)
	s.update(func(st *machine.Status) { st.Ports = ports })
}
