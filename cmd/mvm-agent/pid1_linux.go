package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestinit"
	"github.com/mvmctl/mvmctl/internal/guestproc"
	"github.com/mvmctl/mvmctl/internal/userland"
	"github.com/mvmctl/mvmctl/internal/vsock"
)

// agentPort is the vsock port of the channel (agent-channel: 52 on every backend).
const agentPort = 52

// initProcess is PID 1 of a microVM. It never returns: whatever goes wrong is said on the
// console and ends in a power-off, since the kernel panics when PID 1 exits.
func initProcess() {
	var sys *guestinit.System
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "mvm-agent: internal error: %v\n%s\n", r, debug.Stack())
		}
		sys.PowerOff(false)
	}()
	var err error
	sys, err = guestinit.Boot(context.Background(), guestinit.Options{Log: os.Stderr, Commands: userland.Names()})
	if err == nil {
		err = serveGuest(sys)
	}
	var refused *agentproto.Error
	switch {
	case errors.Is(err, guestinit.ErrProbe):
	case errors.As(err, &refused):
		fmt.Fprintf(os.Stderr, "mvm-agent: %s: %s\n", refused.Code, refused.Message)
	case err != nil:
		fmt.Fprintf(os.Stderr, "mvm-agent: %v\n", err)
	}
}

// becomeInit is the image's init before it is that program.
func becomeInit(args []string) int { return guestinit.EnterInit(args) }

// serveGuest serves the channel until the machine ends.
func serveGuest(sys *guestinit.System) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	procs := guestproc.New()
	go procs.Run(ctx)
	ln, err := openChannel(ctx, sys)
	if err != nil {
		return err
	}
	sys.Finish()
	off := make(chan bool, 1)
	powerOff := func(reboot bool) {
		select {
		case off <- reboot:
		default:
		}
	}
	greeted := make(chan struct{})
	s := newServer(server{
		config: sys.Config, procs: procs, upper: sys.Upper, lower: sys.Lower, slow: sys.Slow, powerOff: powerOff,
		setClock: sys.SetClock, timings: sys.Timings, greeted: func() { close(greeted) },
		resolver: guestproc.Resolver{BaseEnv: sys.Env, Path: guestproc.DefaultPath + ":" + agentproto.GuestBin},
	})
	go func() {
		if reboot, ok := sys.AwaitSignal(ctx); ok {
			s.agent.Shutdown(reboot) // in order: whoever sent the signal hears of its end
		}
	}()
	served := make(chan error, 1)
	go func() { served <- s.run(ctx, ln) }()
	fmt.Fprintln(os.Stderr, "mvm-agent: ready")
	go settle(ctx, sys, greeted)
	select {
	case reboot := <-off:
		sys.PowerOff(reboot)
	case err = <-served:
	}
	return err
}

// settleAfter bounds how long what can wait does wait for a host.
const settleAfter = 5 * time.Second

// settle does what can wait until the host has its answer: on one emulated processor it would
// be paid for with the same time before the machine counts as up.
func settle(ctx context.Context, sys *guestinit.System, greeted <-chan struct{}) {
	select {
	case <-greeted:
	case <-time.After(settleAfter):
	case <-ctx.Done():
		return
	}
	sys.LoadRest()
	sys.Report()
	calmMonitor() // last: while modules load, it is the monitor that lets others run
}

func openChannel(ctx context.Context, sys *guestinit.System) (net.Listener, error) {
	c, err := sys.Channel(ctx)
	if err != nil {
		return nil, err
	}
	if c.Vsock {
		return vsock.Listen(agentPort)
	}
	return vsock.ListenPort(c.Port)
}
