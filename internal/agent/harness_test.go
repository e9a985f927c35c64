//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agent"
	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

const patience = 20 * time.Second // for what should take milliseconds, on a loaded machine

// TestMain makes sure that programs see signals as usual: what runs tests in the background
// may have SIGINT and SIGHUP ignored, and children inherit that. Handled signals are back at
// their default in a new program.
func TestMain(m *testing.M) {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	os.Exit(m.Run())
}

// guest is an agent that serves in this process, and what a host needs to reach it.
type guest struct {
	t      testing.TB
	config *agentproto.Config
	log    *agent.Log
	events *agent.Events
	id     agentclient.Identity
	path   string
	off    chan bool // receives what PowerOff was called with
	stop   func()    // ends Serve and waits for it
	agent  *agent.Agent
}

type keys struct{ seed, public []byte }

func newKeys(t testing.TB) keys {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keys{priv.Seed(), pub}
}

// boot starts an agent; change may adjust its options first.
func boot(t testing.TB, change ...func(*agent.Options)) *guest {
	t.Helper()
	checkLeaks(t)
	host, own := newKeys(t), newKeys(t)
	g := &guest{t: t, log: agent.NewLog(), events: agent.NewEvents(), off: make(chan bool, 1)}
	g.config = &agentproto.Config{
		Protocol: agentproto.Version, MachineID: "0123456789abcdef", Generation: 7,
		GuestSeed: own.seed, HostKey: host.public, Random: make([]byte, 64),
		Access: agentproto.AllAccess(),
	}
	g.id = agentclient.Identity{
		HostSeed: host.seed, GuestKey: own.public,
		MachineID: g.config.MachineID, Generation: g.config.Generation, Build: "host-test",
	}
	ctx, cancel := context.WithCancel(context.Background())
	procs := guestproc.New()
	var running sync.WaitGroup
	running.Go(func() { procs.Run(ctx) })
	o := agent.Options{
		Config: g.config, Build: "agent-test", Procs: procs,
		Resolver: guestproc.Resolver{BaseEnv: map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin"}},
		Log:      g.log, Events: g.events,
		PowerOff: func(reboot bool) { g.off <- reboot },
	}
	for _, c := range change {
		c(&o)
	}
	g.agent = agent.New(o)
	dir, err := os.MkdirTemp("", "mvm") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	g.path = filepath.Join(dir, "agent")
	ln, err := net.Listen("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	sctx, stopServing := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.agent.Serve(sctx, ln) }()
	g.stop = sync.OnceFunc(func() {
		stopServing()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		g.stop()
		cancel()
		running.Wait()
		os.RemoveAll(dir)
	})
	return g
}

// pipe returns a raw connection to the agent.
func (g *guest) pipe() net.Conn {
	g.t.Helper()
	c, err := net.Dial("unix", g.path)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c
}

// connect returns an authenticated client.
func (g *guest) connect() *agentclient.Client {
	g.t.Helper()
	c, err := agentclient.Connect(deadline(g.t), g.pipe(), g.id)
	if err != nil {
		g.t.Fatalf("Connect: %v", err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c
}

// deadline is a context for calls that must not hang.
func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// sh is the start of a shell command.
func sh(script string, args ...any) agentproto.ExecStart {
	return agentproto.ExecStart{Process: agentproto.Process{Args: []string{"/bin/sh", "-c", fmt.Sprintf(script, args...)}}}
}

// run executes a shell command and returns its output and exit.
func run(t testing.TB, c *agentclient.Client, start agentproto.ExecStart, stdin io.Reader) (stdout, stderr string, exit agentproto.Exit) {
	t.Helper()
	var out, errOut bytes.Buffer
	exit, err := c.Exec(deadline(t), start, agentclient.Streams{Stdin: stdin, Stdout: &out, Stderr: &errOut})
	if err != nil {
		t.Fatalf("Exec: %v", err)
	}
	return out.String(), errOut.String(), exit
}

// eventually waits for a condition that has no event of its own.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still not so: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// checkLeaks fails the test when goroutines of the agent or its client outlive it.
func checkLeaks(t testing.TB) {
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		var left []string
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if left = ours(); len(left) == 0 {
				return
			}
		}
		t.Errorf("%d goroutines are left, the first:\n%s", len(left), left[0])
	})
}

// ours returns the stacks of goroutines that run code of the channel.
func ours() []string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var out []string
	for i, stack := range strings.Split(string(buf), "\n\n") {
		if i == 0 {
			continue // this one
		}
		if strings.Contains(stack, "internal/agent.") || strings.Contains(stack, "internal/agentclient.") ||
			strings.Contains(stack, "net/http2.") {
			out = append(out, stack)
		}
	}
	return out
}

// openFiles counts this process's file descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Skipf("missing: /dev/fd: %v", err)
	}
	return len(d)
}

// socketPair returns two connected sockets.
func socketPair() (a, b net.Conn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conns[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	return conns[0], conns[1], nil
}
