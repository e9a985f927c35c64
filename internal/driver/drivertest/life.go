package drivertest

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// testLife: start, answer, shut down, and what may be asked of a machine that has ended.
func testLife(s *suite, t *testing.T) {
	g := s.started(t)
	begun := time.Now()
	c := g.connect()
	t.Logf("agent answered after %v", time.Since(begun).Round(time.Millisecond))
	status, err := c.Status(s.patient(t))
	if err != nil || status.Phase == "" {
		t.Fatalf("status %+v, %v", status, err)
	}
	g.shutdown(c)
	if err := g.vm.Kill(); err != nil {
		t.Errorf("Kill after the end: %v", err)
	}
	if err := g.vm.Shutdown(s.patient(t)); err != nil {
		t.Errorf("Shutdown after the end: %v", err)
	}
	if _, err := g.vm.Dial(s.patient(t), driver.AgentPort); err == nil || s.patient(t).Err() != nil {
		t.Errorf("Dial after the end: %v", err)
	}
	if err := g.wait(); err != nil {
		t.Errorf("a second Wait: %v", err)
	}
}

func testExec(s *suite, t *testing.T) {
	g := s.started(t)
	c := g.connect()
	tests := []struct {
		args        []string
		stdin, want string
		code        int
	}{
		{[]string{"true"}, "", "", 0},
		{[]string{"sh", "-c", "echo out; exit 7"}, "", "out\n", 7},
		{[]string{"no-such-command"}, "", "", 127},
		{[]string{"cat"}, strings.Repeat("0123456789abcdef", 1<<12), strings.Repeat("0123456789abcdef", 1<<12), 0},
	}
	for _, tt := range tests {
		out, exit := g.exec(c, strings.NewReader(tt.stdin), tt.args...)
		if exit.Code != tt.code || out != tt.want && tt.code != 127 {
			t.Errorf("%q: exit %d (%v), want %d; %d bytes of output, want %d", tt.args, exit.Code, exit.Error, tt.code, len(out), len(tt.want))
		}
	}
}

func testKillAtOnce(s *suite, t *testing.T) {
	g := s.started(t)
	if err := g.vm.Kill(); err != nil {
		t.Errorf("Kill: %v", err)
	}
	if err := g.wait(); err != nil {
		t.Errorf("Wait after Kill: %v", err)
	}
}

func testKillTwice(s *suite, t *testing.T) {
	g := s.started(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := g.vm.Wait(); err != nil {
				t.Errorf("Wait: %v", err)
			}
		})
	}
	for range 2 {
		all.Go(func() {
			if err := g.vm.Kill(); err != nil {
				t.Errorf("Kill: %v", err)
			}
		})
	}
	all.Wait()
	if err := g.vm.Kill(); err != nil {
		t.Errorf("Kill of a dead machine: %v", err)
	}
}

func testDialContext(s *suite, t *testing.T) {
	g := s.started(t)
	ctx, cancel := context.WithCancel(s.patient(t))
	cancel()
	if conn, err := g.vm.Dial(ctx, driver.AgentPort); err == nil {
		_ = conn.Close() // a pipe that is there at once needs no waiting
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("Dial with a cancelled context: %v", err)
	}
	if !s.OneDial {
		g.exec(g.connect(), nil, "true")
	}
}

// testDialEnd: somebody waits for a guest that never comes up.
func testDialEnd(s *suite, t *testing.T) {
	g := s.started(t)
	waiting := make(chan error, 1)
	go func() {
		conn, err := g.vm.Dial(s.patient(t), driver.AgentPort)
		if err == nil { // the guest was there before we could kill it
			_, err = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
		waiting <- err
	}()
	_ = g.vm.Kill()
	select {
	case err := <-waiting:
		if err == nil {
			t.Error("Dial and Read succeeded on a killed machine")
		}
	case <-s.patient(t).Done():
		t.Error("Dial hangs on a killed machine")
	}
}

func testOtherPort(s *suite, t *testing.T) {
	if s.caps.Transport == "vsock" {
		t.Skip("by vsock every guest port can be dialled")
	}
	g := s.started(t)
	if _, err := g.vm.Dial(s.patient(t), driver.AgentPort+1); !errors.Is(err, driver.ErrNoSuchPort) {
		t.Errorf("got %v, want ErrNoSuchPort", err)
	}
}

func testSecondDial(s *suite, t *testing.T) {
	if s.OneDial {
		t.Skip("the driver's machines can be dialled only once")
	}
	g := s.started(t)
	first := g.connect()
	second := g.connect()
	g.exec(second, nil, "true")
	if s.caps.Transport != "vsock" { // one byte pipe: the older connection is over
		select {
		case <-first.Closed():
		case <-s.patient(t).Done():
			t.Error("the first connection is still open")
		}
	}
	// Again and again, with work under way that the next connection cuts off.
	for range 5 {
		c := g.connect()
		out, exit := g.exec(c, nil, "echo", "hello")
		if out != "hello\n" || exit.Code != 0 {
			t.Errorf("echo: %q, %+v", out, exit)
		}
	}
}

func testWrongKey(s *suite, t *testing.T) {
	g := s.started(t)
	right := g.id
	g.id.GuestKey = newKey(t).Public().(ed25519.PublicKey)
	conn, err := g.vm.Dial(s.patient(t), driver.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	_, err = agentclient.Connect(s.patient(t), conn, g.id)
	var known *agentproto.Error
	if !errors.As(err, &known) || known.Code != agentproto.CodeAuth {
		t.Fatalf("a guest with another key: %v, want %s", err, agentproto.CodeAuth)
	}
	if s.OneDial {
		return
	}
	g.id = right
	g.exec(g.connect(), nil, "true")
}

func testPowerOff(s *suite, t *testing.T) {
	if !s.boots() {
		t.Skip("the driver's guest is no machine and has no power to switch off")
	}
	g := s.started(t)
	c := g.connect()
	// The command may or may not be answered before the connection goes.
	_, _ = c.Exec(s.patient(t), agentproto.ExecStart{Process: agentproto.Process{Args: []string{"poweroff"}}}, agentclient.Streams{})
	if err := g.wait(); err != nil {
		t.Errorf("Wait after a power-off: %v", err)
	}
}

func testPanic(s *suite, t *testing.T) {
	if !s.SeesPanic {
		t.Skip("the driver does not claim to see a panic")
	}
	g := s.started(t)
	c := g.connect()
	_, _ = c.Exec(s.patient(t), agentproto.ExecStart{Process: agentproto.Process{Args: []string{"sh", "-c", "echo c > /proc/sysrq-trigger"}}}, agentclient.Streams{})
	if err := g.wait(); machine.CodeOf(err) != "guest.panic" {
		t.Errorf("Wait after a panic: %v, want guest.panic", err)
	}
}

func testVMMKilled(s *suite, t *testing.T) {
	g := s.started(t)
	pid, err := g.pid()
	if err != nil {
		t.Skip(err)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := g.wait(); err == nil {
		t.Error("Wait says nil of a VMM that was killed from outside")
	} else if code := machine.CodeOf(err); code == "" {
		t.Errorf("an error without a code: %v", err)
	}
}

// testConsoleFlood: a guest that writes without end to its console must not disturb anything
// else. The boot itself must have left something there too.
func testConsoleFlood(s *suite, t *testing.T) {
	g := s.started(t)
	c := g.connect()
	if !s.boots() {
		t.Skip("the driver's guest has no console device")
	}
	_, exit := g.exec(c, nil, "sh", "-c", "i=0; while [ $i -lt "+strconv.Itoa(s.Flood/10)+" ]; do echo '"+strings.Repeat("flood ", 60)+"'; i=$((i+1)); done > /tmp/f; for n in 1 2 3 4 5 6 7 8 9 10; do cat /tmp/f > /dev/console; done; echo the-last > /dev/console")
	if exit.Code != 0 {
		t.Fatalf("flooding: %+v", exit)
	}
	if err := g.console.waitFor(s.patient(t), containing("the-last")); err != nil {
		t.Errorf("the end of the flood did not arrive: %v", err)
	}
	if got, least := g.console.count(), int64(s.Flood*60*6); got < least {
		t.Errorf("%d bytes arrived on the console, at least %d were written", got, least)
	}
	g.exec(c, nil, "true")
	g.shutdown(c)
}
