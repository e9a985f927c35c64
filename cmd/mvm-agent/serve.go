package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
	"github.com/mvmctl/mvmctl/internal/userland"
)

// serve runs the agent as an ordinary process for the fake driver: the same code without
// mounts, host name, clock or power.
func serve(args []string) int {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	configDir := fs.String("config-dir", "", "folder with config.json")
	root := fs.String("root", "", "folder that copies are confined to")
	bin := fs.String("bin", "", "folder for the user land's links")
	fd := fs.Int("channel-fd", -1, "inherited stream socket of the channel")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	dieWithParent()
	if err := serveProcess(*configDir, *root, *bin, *fd); err != nil {
		fmt.Fprintln(os.Stderr, "mvm-agent:", err)
		return 1
	}
	return 0
}

func serveProcess(configDir, root, bin string, fd int) error {
	f, err := os.Open(filepath.Join(configDir, agentproto.ConfigFile))
	if err != nil {
		return fmt.Errorf("reading the config: %w", err)
	}
	cfg, err := agentproto.ReadConfig(f)
	_ = f.Close()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	for _, name := range userland.Names() {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("making the user land: %w", err)
		}
	}
	ln, err := inherited(fd)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	procs := guestproc.New()
	procs.KillWithParent() // a guest whose VMM is killed has no survivors either
	var wg sync.WaitGroup
	defer wg.Wait()
	reap, stopReaping := context.WithCancel(context.Background())
	defer stopReaping()
	wg.Go(func() { procs.Run(reap) })
	return newServer(server{
		config: cfg, procs: procs, root: root, powerOff: func(bool) { cancel() }, shell: []string{filepath.Join(bin, "sh")},
		resolver: guestproc.Resolver{BaseEnv: cfg.Env, Path: bin + ":" + guestproc.DefaultPath},
	}).run(ctx, ln)
}

// inherited is a Listener of one connection: the inherited socket.
func inherited(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "channel")
	if f == nil {
		return nil, errors.New("--channel-fd is not an open descriptor")
	}
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("using the inherited channel: %w", err)
	}
	l := &oneConn{conns: make(chan net.Conn, 1), closed: make(chan struct{}), addr: conn.LocalAddr()}
	l.conns <- conn
	return l, nil
}

// oneConn implements net.Listener for a single connection.
type oneConn struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
	addr   net.Addr
}

// Accept implements net.Listener.
func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.addr }
