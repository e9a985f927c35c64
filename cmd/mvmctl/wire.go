package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentbin"
	"github.com/mvmctl/mvmctl/internal/control"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/kernel"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/nix"
	"github.com/mvmctl/mvmctl/internal/oci"
	"github.com/mvmctl/mvmctl/internal/paths"
	"github.com/mvmctl/mvmctl/internal/store"
	"github.com/mvmctl/mvmctl/internal/supervisor"
	"github.com/mvmctl/mvmctl/internal/volume"
)

// superviseCommand is the hidden command that makes this program a machine's supervisor.
const superviseCommand = "supervise"

// parts puts the program together: which pieces, in what order. Nothing is loaded, probed or
// dialled here.
func parts(p paths.Paths, log *slog.Logger) engine.Parts {
	st := store.New(p)
	e := engine.Parts{
		Paths: p, Records: st, Locks: locks{st}, Supervisors: supervisors{},
		KernelStore: kernel.New(p.Cache), ImageStore: image.New(p.Cache), VolumeStore: volume.New(p.Data),
		Agent: func(ctx context.Context) (string, string, error) {
			return agentbin.Extract(ctx, p.Cache, agentbin.Options{Override: os.Getenv("MVM_AGENT")})
		},
		LayersInUse: func(ctx context.Context) (map[string]bool, func(), error) {
			return oci.InUse(ctx, filepath.Join(p.Cache, "blobs"))
		},
		KeepRunner: nix.Keep,
		Build:      version, Log: log,
	}
	e.Drivers, e.Explicit = drivers(p, &e, log)
	e.Elsewhere, e.Aliases = foreign(), aliases()
	return e
}

// locks lets the engine see the store's locks through its own interface.
type locks struct{ *store.Store }

// Lock implements engine.Locks.
func (l locks) Lock(ctx context.Context, name, what string) (engine.Lock, error) {
	k, err := l.Store.Lock(ctx, name, what)
	if err != nil {
		return nil, err
	}
	return k, nil
}

// TryLock implements engine.Locks.
func (l locks) TryLock(name, what string) engine.Lock {
	if k := l.Store.TryLock(name, what); k != nil {
		return k
	}
	return nil
}

// supervisors lets the engine start and reach supervisor processes.
type supervisors struct{}

// Launch implements engine.Supervisors.
func (supervisors) Launch(ctx context.Context, l engine.Launch) (machine.Status, error) {
	exe, err := os.Executable()
	if err != nil {
		return machine.Status{}, machine.Errorf("env.executable", "start mvmctl by its full path", "finding this program: %w", err)
	}
	return supervisor.Spawn(ctx, supervisor.Process{
		Exe: exe, Args: []string{superviseCommand, l.Boot.Name}, Env: os.Environ(), Log: l.Log, Alive: l.Alive,
	}, supervisor.Request{
		Boot: l.Boot, HostSeed: l.HostSeed, GuestKey: l.GuestKey, Ports: l.Ports, Isolation: l.Isolation, Slow: l.Slow,
	}, l.Started, l.OnPhase)
}

// Connect implements engine.Supervisors.
func (supervisors) Connect(ctx context.Context, socket string) (engine.Control, error) {
	c, err := control.Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	return controlled{c}, nil
}

// controlled lets the engine see a control client through its own interface.
type controlled struct{ *control.Client }

// Stop implements engine.Control.
func (c controlled) Stop(ctx context.Context, grace time.Duration, force bool) error {
	return c.Client.Stop(ctx, control.StopRequest{GraceMS: grace.Milliseconds(), Force: force})
}
