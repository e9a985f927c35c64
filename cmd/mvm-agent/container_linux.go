package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestinit"
	"github.com/mvmctl/mvmctl/internal/guestproc"
	"github.com/mvmctl/mvmctl/internal/userland"
)

// Exit codes of the first process of a container.
const (
	codeFailed   = 1
	codeHostGone = 3
)

// errHostGone ends a machine whose host is not there any more: nobody could reach it.
var errHostGone = errors.New("the host is gone")

// containerProcess is the first process of a container. Its standard input brings the
// configuration and then nothing until the host is gone; its standard output says with one line that
// this was understood, and with another that the channel can be used; its standard error is the machine's console. When it ends, the kernel ends
// all others.
func containerProcess() int {
	sys, err := guestinit.Enter(guestinit.Options{Log: os.Stderr, Commands: userland.Names()}, os.Stdin)
	if err == nil {
		_, _ = fmt.Fprintln(os.Stdout, "configured")
		err = serveContainer(sys)
	}
	refused, isRefused := errors.AsType[*agentproto.Error](err)
	switch {
	case errors.Is(err, errHostGone):
		return codeHostGone // as a machine ends whose VMM was killed
	case isRefused:
		fmt.Fprintf(os.Stderr, "mvm-agent: %s: %s\n", refused.Code, refused.Message)
	case err != nil:
		fmt.Fprintf(os.Stderr, "mvm-agent: %v\n", err)
	}
	if sys != nil {
		sys.Leave()
	}
	if err != nil {
		return codeFailed
	}
	return 0
}

// serveContainer serves the channel until the machine ends.
func serveContainer(sys *guestinit.System) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	procs := guestproc.New()
	go procs.Run(ctx)
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", agentproto.ContainerSocket)
	if err != nil {
		return fmt.Errorf("opening the channel: %w", err)
	}
	off := make(chan struct{}, 1)
	s := newServer(server{
		config: sys.Config, procs: procs, shared: true,
		powerOff: func(bool) {
			select {
			case off <- struct{}{}:
			default:
			}
		},
		resolver: guestproc.Resolver{BaseEnv: sys.Env, Path: guestproc.DefaultPath + ":" + agentproto.GuestBin},
	})
	go func() {
		if _, ok := sys.AwaitSignal(ctx); ok {
			s.agent.Shutdown(false) // there is no reboot: the container ends
		}
	}()
	served := make(chan error, 1)
	go func() { served <- s.run(ctx, ln) }()
	fmt.Fprintln(os.Stderr, "mvm-agent: ready")
	_, _ = fmt.Fprintln(os.Stdout, "ready")
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	select {
	case <-off:
		return nil
	case <-gone:
		return errHostGone
	case err = <-served:
		return err
	}
}

// bridge passes bytes on between its own input and output and the channel, until either ends.
func bridge(in io.Reader, out io.Writer) int {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "unix", agentproto.ContainerSocket)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mvm-agent:", err)
		return codeFailed
	}
	if _, err := io.WriteString(out, agentproto.BridgeGreeting); err != nil {
		return codeFailed
	}
	over := make(chan struct{}, 2)
	go func() {
		_, _ = io.Copy(conn, in)
		over <- struct{}{}
	}()
	go func() {
		_, _ = io.Copy(out, conn)
		over <- struct{}{}
	}()
	<-over
	return 0
}
