package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Forward publishes more ports of a running machine, all or none, and returns them with every
// port 0 resolved.
func (e *Engine) Forward(ctx context.Context, name string, ports []machine.Port) ([]machine.Port, error) {
	if err := machine.CheckPorts(ports); err != nil {
		return nil, err
	}
	c, rec, err := e.control(ctx, name)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if rec.Spec.Sealed {
		// The agent would refuse every connection; a port that leads nowhere helps nobody.
		return nil, machine.Errorf(agentproto.CodeDenied, "start it with --dev to allow it", "machine %q is sealed: it carries no connections", name)
	}
	bound, err := c.AddForwards(ctx, ports)
	return bound, e.namePortHolder(err, ports)
}

// namePortHolder says which of our machines has the port, when it is one of them.
func (e *Engine) namePortHolder(err error, wanted []machine.Port) error {
	known, ok := errors.AsType[*machine.Error](err)
	if !ok || known.Code != "port.in_use" {
		return err
	}
	names, _ := e.Records.Names() // only for a better message
	for _, name := range names {
		st := e.Records.Status(name)
		if st == nil || !st.State.Live() || !e.Locks.Alive(name) {
			continue
		}
		for _, held := range st.Ports {
			for _, p := range wanted {
				if held.HostPort == p.HostPort && held.Host == p.Host {
					named := *known
					named.Message = fmt.Sprintf("host port %s:%d is published by machine %q", held.Host, held.HostPort, name)
					return &named
				}
			}
		}
	}
	return err
}

// Forwards lists the published ports of a running machine.
func (e *Engine) Forwards(ctx context.Context, name string) ([]machine.Port, error) {
	c, _, err := e.control(ctx, name)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Forwards(ctx)
}

// Unforward takes a published port back and ends its connections.
func (e *Engine) Unforward(ctx context.Context, name string, p machine.Port) error {
	c, _, err := e.control(ctx, name)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.RemoveForward(ctx, p)
}

// Diff reports what the machine has changed against its image.
func (e *Engine) Diff(ctx context.Context, name string, emit func(agentproto.Change) error) error {
	c, rec, err := e.control(ctx, name)
	if err != nil {
		return err
	}
	defer c.Close()
	if d, ok := e.driverOf(rec).(driver.Differ); ok {
		return d.Changes(ctx, rec.ID, e.places(rec).Dir, func(c driver.Change) error {
			return emit(agentproto.Change{Kind: c.Kind, Path: c.Path, Type: c.Type, Size: c.Size})
		})
	}
	return guestError(attended(c.Agent(), name).Diff(ctx, emit))
}
