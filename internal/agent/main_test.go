//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agent"
	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// withMain gives the machine a main program.
func withMain(attach bool, script string) func(*agent.Options) {
	return func(o *agent.Options) {
		o.Config.Main = &agentproto.Main{
			Process: agentproto.Process{Args: []string{"/bin/sh", "-c", script}}, Attach: attach,
		}
	}
}

var errStop = errors.New("seen enough")

// mainExited waits for the event and returns the exit code in it.
func mainExited(t *testing.T, c *agentclient.Client) int {
	t.Helper()
	code := -1
	err := c.Events(deadline(t), 0, func(e agentproto.Event) error {
		if e.Type == "main" && e.State == "exited" && e.ExitCode != nil {
			code = *e.ExitCode
			return errStop
		}
		return nil
	})
	if !errors.Is(err, errStop) {
		t.Fatalf("Events: %v", err)
	}
	return code
}

func mainState(t *testing.T, c *agentclient.Client, want string) agentproto.MainStatus {
	t.Helper()
	var got agentproto.MainStatus
	eventually(t, "main is "+want, func() bool {
		s, err := c.Status(deadline(t))
		if err != nil || s.Main == nil {
			t.Fatalf("status %+v, %v", s, err)
		}
		got = *s.Main
		return got.State == want
	})
	return got
}

func TestMainRunsAtBootAndLogs(t *testing.T) {
	g := boot(t, withMain(false, "echo one; echo two >&2; exit 5"))
	c := g.connect()
	if code := mainExited(t, c); code != 5 {
		t.Errorf("exit code %d in the event", code)
	}
	if s := mainState(t, c, "exited"); s.ExitCode != 5 {
		t.Errorf("status %+v", s)
	}
	if err := c.Shutdown(deadline(t), agentproto.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	var lines []string
	err := c.Logs(deadline(t), 0, func(e agentproto.LogEntry) error {
		if e.Source == "main" {
			lines = append(lines, e.Stream+":"+e.Text)
		}
		return nil
	})
	if err != nil {
		t.Errorf("Logs: %v", err)
	}
	if got := strings.Join(lines, " "); got != "out:one err:two" && got != "err:two out:one" {
		t.Errorf("log %q", got)
	}
	if reboot := <-g.off; reboot {
		t.Error("rebooted")
	}
}

func TestMainThatCannotStart(t *testing.T) {
	g := boot(t, func(o *agent.Options) {
		o.Config.Main = &agentproto.Main{Process: agentproto.Process{Args: []string{"no-such-command"}}}
	})
	c := g.connect()
	if code := mainExited(t, c); code != 127 {
		t.Errorf("exit code %d, want 127", code)
	}
	exit, err := c.Attach(deadline(t), agentproto.AttachStart{}, agentclient.Streams{})
	if err != nil || exit.Code != 127 || errorCode(exit) != agentproto.CodeNotFound {
		t.Errorf("a late attach: %+v, %v", exit, err)
	}
	c.Shutdown(deadline(t), agentproto.ShutdownRequest{})
	<-g.off
}

func TestMainWaitsForItsHost(t *testing.T) {
	g := boot(t, withMain(true, "cat; echo end; exit 7"))
	c := g.connect()
	mainState(t, c, "waiting")
	var out bytes.Buffer
	exit, err := c.Attach(deadline(t), agentproto.AttachStart{}, agentclient.Streams{Stdin: strings.NewReader("input\n"), Stdout: &out})
	if err != nil || exit.Code != 7 || out.String() != "input\nend\n" {
		t.Errorf("exit %+v, %v, output %q", exit, err, out.String())
	}
	c.Shutdown(deadline(t), agentproto.ShutdownRequest{Reboot: true})
	if reboot := <-g.off; !reboot {
		t.Error("not rebooted")
	}
}

// A host that goes away leaves the program running, and another one can take its place.
func TestMainOutlivesItsHost(t *testing.T) {
	g := boot(t, withMain(true, `while read line; do echo "got $line"; done; exit 3`))
	c := g.connect()
	first := g.connect()
	pr, pw := io.Pipe()
	term := &terminal{in: pw}
	done := make(chan ended, 1)
	go func() {
		exit, err := first.Attach(deadline(t), agentproto.AttachStart{}, agentclient.Streams{Stdin: pr, Stdout: term})
		done <- ended{exit, err}
	}()
	io.WriteString(pw, "a\n")
	eventually(t, "an answer", func() bool { return term.shows("got a") })

	_, err := c.Attach(deadline(t), agentproto.AttachStart{}, agentclient.Streams{})
	if agentproto.CodeOf(err) != agentproto.CodeMainAttached {
		t.Errorf("a second host: %v", err)
	}
	pid := mainState(t, c, "running").Pid
	first.Close()
	if e := wait(t, done); agentproto.CodeOf(e.err) != agentproto.CodeLost {
		t.Errorf("the first host sees %+v, %v", e.exit, e.err)
	}
	pw.Close()

	var out bytes.Buffer
	eventually(t, "the place is free", func() bool {
		var exit agentproto.Exit
		exit, err = c.Attach(deadline(t), agentproto.AttachStart{}, agentclient.Streams{
			Stdin: strings.NewReader("b\n"), Stdout: &out,
			Started: func(p int) {
				if p != pid {
					t.Errorf("pid %d, want %d", p, pid)
				}
			},
		})
		return agentproto.CodeOf(err) != agentproto.CodeMainAttached && exit.Code == 3
	})
	if err != nil || out.String() != "got b\n" {
		t.Errorf("%v, output %q", err, out.String())
	}
	c.Shutdown(deadline(t), agentproto.ShutdownRequest{})
	<-g.off
}

func TestMainWithATerminal(t *testing.T) {
	g := boot(t, withMain(true, "test -t 0 && stty size && echo $TERM"), func(o *agent.Options) { o.Config.Main.TTY = true })
	c := g.connect()
	var out bytes.Buffer
	exit, err := c.Attach(deadline(t), agentproto.AttachStart{Rows: 40, Cols: 100, Term: "vt220"}, agentclient.Streams{Stdout: &out})
	if err != nil || exit.Code != 0 || out.String() != "40 100\r\nvt220\r\n" {
		t.Errorf("exit %+v, %v, output %q", exit, err, out.String())
	}
	c.Shutdown(deadline(t), agentproto.ShutdownRequest{})
	<-g.off
}

func TestAttachWithoutMain(t *testing.T) {
	_, err := boot(t).connect().Attach(deadline(t), agentproto.AttachStart{}, agentclient.Streams{})
	if agentproto.CodeOf(err) != agentproto.CodeNoMain {
		t.Errorf("%v", err)
	}
}

// A machine that nobody shuts down after its program has ended powers itself off.
func TestMainEndsTheMachineWithoutAHost(t *testing.T) {
	if testing.Short() {
		t.Skip("missing: time to wait for the 5 s that a lost host has, with -short")
	}
	g := boot(t, withMain(false, "exit 0"))
	began := time.Now()
	select {
	case <-g.off:
	case <-time.After(patience):
		t.Fatal("it does not power off")
	}
	if d := time.Since(began); d < 4*time.Second {
		t.Errorf("it did so after %v: a host had no time to come", d)
	}
}

// services is a service manager with nothing to do.
type services struct{ grace chan time.Duration }

func (*services) Status() []agentproto.ServiceStatus {
	return []agentproto.ServiceStatus{{Name: "web", State: "running"}}
}

func (*services) CheckStatus() []agentproto.CheckStatus {
	return []agentproto.CheckStatus{{Name: "web-up", State: "healthy"}}
}

func (s *services) Stop(_ context.Context, grace time.Duration) { s.grace <- grace }

func TestShutdownStopsEverything(t *testing.T) {
	svc := &services{grace: make(chan time.Duration, 1)}
	g := boot(t, withMain(false, `trap 'echo last words; exit 0' TERM; echo up; while :; do sleep 0.05; done`),
		func(o *agent.Options) { o.Services = svc })
	c := g.connect()
	s, err := c.Status(deadline(t))
	if err != nil || len(s.Services) != 1 || len(s.Checks) != 1 || s.Services[0].Name != "web" {
		t.Errorf("status %+v, %v", s, err)
	}
	// Also a command that is under way ends, and its host learns why.
	started := make(chan struct{})
	done := make(chan ended, 1)
	go func() {
		exit, err := c.Exec(deadline(t), sh("exec sleep 60"), agentclient.Streams{Started: func(int) { close(started) }})
		done <- ended{exit, err}
	}()
	<-started
	var texts []string
	logs := make(chan error, 1)
	up := make(chan struct{})
	go func() {
		logs <- c.Logs(deadline(t), 0, func(e agentproto.LogEntry) error {
			if e.Source == "main" && e.Stream == "out" {
				texts = append(texts, e.Text)
			}
			if e.Text == "up" {
				close(up)
			}
			return nil
		})
	}()
	<-up
	if err := c.Shutdown(deadline(t), agentproto.ShutdownRequest{Grace: agentproto.Duration(3 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	if e := wait(t, done); e.err != nil || e.exit.Signal != "SIGHUP" {
		t.Errorf("exec: %+v, %v", e.exit, e.err)
	}
	if err := <-logs; err != nil {
		t.Errorf("Logs: %v", err)
	}
	if got := strings.Join(texts, ","); got != "up,last words" {
		t.Errorf("log %q", got)
	}
	<-g.off
	if d := <-svc.grace; d != 3*time.Second {
		t.Errorf("grace %v", d)
	}
	if s, err := c.Status(deadline(t)); err != nil || s.Phase != "stopping" {
		t.Errorf("status %+v, %v", s, err)
	}
}

// A main program that ignores SIGTERM is killed after the grace.
func TestShutdownKillsWhatDoesNotStop(t *testing.T) {
	g := boot(t, withMain(false, `trap '' TERM; echo up; while :; do sleep 0.05; done`))
	c := g.connect()
	// Running is not enough: until it says "up", it has not said that it ignores the signal.
	ctx, cancel := context.WithCancel(deadline(t))
	up := make(chan struct{})
	go func() {
		_ = c.Logs(ctx, 0, func(e agentproto.LogEntry) error {
			if e.Text == "up" {
				close(up)
			}
			return nil
		})
	}()
	<-up
	cancel()
	c.Shutdown(deadline(t), agentproto.ShutdownRequest{Grace: agentproto.Duration(200 * time.Millisecond)})
	<-g.off
	if s := mainState(t, c, "exited"); s.ExitCode != 137 {
		t.Errorf("status %+v", s)
	}
}
