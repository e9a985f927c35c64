//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agent"
	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// terminal is a host's end of a console: what is typed, and all that came back.
type terminal struct {
	in  *io.PipeWriter
	mu  sync.Mutex
	out bytes.Buffer
}

func (c *terminal) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(p)
}

func (c *terminal) shows(s string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Contains(c.out.String(), s)
}

func (c *terminal) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

type ended struct {
	exit agentproto.Exit
	err  error
}

// console opens the console and returns once its shell runs.
func console(ctx context.Context, t *testing.T, c *agentclient.Client, s agentclient.Streams, args ...string) (*terminal, <-chan ended) {
	t.Helper()
	pr, pw := io.Pipe()
	term := &terminal{in: pw}
	t.Cleanup(func() { pw.Close() })
	started := make(chan struct{})
	s.Stdin, s.Stdout, s.Started = pr, term, func(int) { close(started) }
	done := make(chan ended, 1)
	go func() {
		exit, err := c.Console(ctx, agentproto.ExecStart{
			Process: agentproto.Process{Args: args, Env: map[string]string{"PS1": "ready> "}}, Rows: 24, Cols: 80,
		}, s)
		done <- ended{exit, err}
	}()
	select {
	case <-started:
	case e := <-done:
		t.Fatalf("console: %+v, %v", e.exit, e.err)
	}
	return term, done
}

func wait(t *testing.T, done <-chan ended) ended {
	t.Helper()
	select {
	case e := <-done:
		return e
	case <-time.After(patience):
		t.Fatal("the stream does not end")
		return ended{}
	}
}

// sessionFree waits until no console session is open.
func sessionFree(t *testing.T, c *agentclient.Client) {
	t.Helper()
	eventually(t, "the console is free", func() bool {
		s, err := c.Status(deadline(t))
		return err == nil && s.Console == nil
	})
}

func TestConsoleIsATerminalWithJobControl(t *testing.T) {
	c := boot(t).connect()
	resize := make(chan agentproto.Resize)
	term, done := console(deadline(t), t, c, agentclient.Streams{Resize: resize})
	defer func() {
		if t.Failed() {
			t.Logf("terminal: %q", term)
		}
	}()
	eventually(t, "a prompt", func() bool { return term.shows("ready> ") })

	// Ctrl-C as a byte ends the foreground command and not the shell.
	io.WriteString(term.in, "sh -c 'echo runs; exec sleep 60'\n")
	eventually(t, "the command runs", func() bool { return term.shows("runs\r\n") })
	io.WriteString(term.in, "\x03")
	io.WriteString(term.in, "echo st''ill $?\n")
	eventually(t, "the shell goes on after Ctrl-C", func() bool { return term.shows("still 130") })

	resize <- agentproto.Resize{Rows: 0, Cols: 0} // means nothing and must do no harm
	resize <- agentproto.Resize{Rows: 51, Cols: 132}
	io.WriteString(term.in, "stty size\n")
	eventually(t, "the new size", func() bool { return term.shows("51 132") })

	io.WriteString(term.in, "exit 9\n")
	if e := wait(t, done); e.err != nil || e.exit.Code != 9 {
		t.Errorf("exit %+v, %v\n%s", e.exit, e.err, term)
	}
}

func TestConsoleIsOneSession(t *testing.T) {
	c := boot(t).connect()
	term, done := console(deadline(t), t, c, agentclient.Streams{})
	s, err := c.Status(deadline(t))
	if err != nil || s.Console == nil || s.Worker != "busy" {
		t.Fatalf("status %+v, %v", s, err)
	}
	_, err = c.Console(deadline(t), agentproto.ExecStart{}, agentclient.Streams{})
	if agentproto.CodeOf(err) != agentproto.CodeConsoleBusy || !strings.Contains(err.Error(), s.Console.Since.Format(time.RFC3339)) {
		t.Errorf("second console: %v, want %s since %v", err, agentproto.CodeConsoleBusy, s.Console.Since)
	}
	io.WriteString(term.in, "exit\n")
	wait(t, done)
	sessionFree(t, c)
	term, done = console(deadline(t), t, c, agentclient.Streams{})
	io.WriteString(term.in, "exit\n")
	wait(t, done)
}

func TestConsoleEndsWhenIdle(t *testing.T) {
	c := boot(t, func(o *agent.Options) { o.Config.ConsoleIdle = agentproto.Duration(300 * time.Millisecond) }).connect()
	term, done := console(deadline(t), t, c, agentclient.Streams{})
	e := wait(t, done)
	if e.err != nil || errorCode(e.exit) != agentproto.CodeConsoleIdle {
		t.Errorf("exit %+v, %v", e.exit, e.err)
	}
	if !term.shows("console closed after 300ms") {
		t.Errorf("no message in %q", term)
	}
	sessionFree(t, c)
}

func TestConsoleTrafficKeepsItOpen(t *testing.T) {
	c := boot(t, func(o *agent.Options) { o.Config.ConsoleIdle = agentproto.Duration(400 * time.Millisecond) }).connect()
	began := time.Now()
	// Output alone counts, and the session lasts several times the limit.
	_, done := console(deadline(t), t, c, agentclient.Streams{}, "/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; sleep 0.1; done; exit 4")
	if e := wait(t, done); e.err != nil || e.exit.Code != 4 {
		t.Errorf("exit %+v, %v", e.exit, e.err)
	}
	if d := time.Since(began); d < 800*time.Millisecond {
		t.Errorf("it ended after %v", d)
	}
}

// A client that is gone frees the console at once, even while its shell ignores the hang-up.
func TestConsoleIsFreeWhenTheClientVanishes(t *testing.T) {
	g := boot(t)
	c := g.connect()
	victim := g.connect()
	_, done := console(deadline(t), t, victim, agentclient.Streams{},
		"/bin/sh", "-c", `trap "" HUP; for i in 1 2 3 4; do sleep 1; done`)
	victim.Close()
	began := time.Now()
	sessionFree(t, c)
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("it was free only after %v", d)
	}
	if e := wait(t, done); agentproto.CodeOf(e.err) != agentproto.CodeLost {
		t.Errorf("the victim sees %+v, %v", e.exit, e.err)
	}
	term, done2 := console(deadline(t), t, c, agentclient.Streams{})
	io.WriteString(term.in, "exit\n")
	wait(t, done2)
}

// A client that neither reads nor goes loses the console when it has been idle.
func TestConsoleIsFreeWhenAStalledClientIsIdle(t *testing.T) {
	g := boot(t, func(o *agent.Options) { o.Config.ConsoleIdle = agentproto.Duration(300 * time.Millisecond) })
	c := g.connect()
	ctx, cancel := context.WithCancel(deadline(t))
	pr, pw := io.Pipe() // nobody reads pr
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Console(ctx, agentproto.ExecStart{Process: agentproto.Process{Args: []string{"cat", "/dev/zero"}}}, agentclient.Streams{Stdout: pw})
	}()
	eventually(t, "the console is open", func() bool {
		s, err := c.Status(deadline(t))
		return err == nil && s.Console != nil
	})
	sessionFree(t, c)
	cancel()
	pr.Close()
	<-done
}

// A client that has stopped reading does not keep the console once its shell has ended: the
// session is over, whether or not its last output has been taken.
func TestConsoleIsFreeWhenTheShellOfAStalledClientEnds(t *testing.T) {
	g := boot(t)
	c := g.connect()
	ctx, cancel := context.WithCancel(deadline(t))
	pr, pw := io.Pipe() // nobody reads pr
	done, started := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		c.Console(ctx, sh("cat /dev/zero & sleep 1; kill -9 $!"), // the second is for all buffers to fill
			agentclient.Streams{Stdout: pw, Started: func(int) { close(started) }})
	}()
	<-started
	sessionFree(t, c)
	term, done2 := console(deadline(t), t, c, agentclient.Streams{})
	io.WriteString(term.in, "exit\n")
	wait(t, done2)
	cancel()
	pr.Close()
	<-done
}

func TestConsoleFallsBackToAnotherShell(t *testing.T) {
	c := boot(t, func(o *agent.Options) { o.Shell = []string{"/bin/sh", "-c", "echo mine; exit 6"} }).connect()
	term, done := console(deadline(t), t, c, agentclient.Streams{})
	if e := wait(t, done); e.exit.Code != 6 || !term.shows("mine") {
		t.Errorf("exit %+v, output %q", e.exit, term)
	}
}
