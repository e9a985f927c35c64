//go:build unix

package guestproc

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// limit is how long anything here may take before the test is called hung.
const limit = 20 * time.Second

func running(t *testing.T) *Table {
	t.Helper()
	tab := New()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); tab.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return tab
}

func wait(t *testing.T, p *Proc) agentproto.Exit {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit()
	case <-time.After(limit):
		t.Fatalf("process %d was not reaped", p.Pid())
		return agentproto.Exit{}
	}
}

func sh(script string) Spec {
	return Spec{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=" + DefaultPath}}
}

func start(t *testing.T, tab *Table, s Spec) *Proc {
	t.Helper()
	p, err := tab.Start(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// startReading starts s with its output on a pipe.
func startReading(t *testing.T, tab *Table, s Spec) (*Proc, *bufio.Reader) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	if err := r.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	s.Stdout = w
	p, err := tab.Start(s)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return p, bufio.NewReader(r)
}

func readPid(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// closedByAll reports, by the pipe's end, that every process that held it is gone.
func closedByAll(t *testing.T, r io.Reader) {
	t.Helper()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatalf("a process that should be gone still holds the pipe: %v", err)
	}
}

func TestExitCodesAndSignals(t *testing.T) {
	tab := running(t)
	for _, c := range []struct {
		script, signal string
		code           int
	}{
		{"exit 0", "", 0},
		{"exit 7", "", 7},
		{"exit 255", "", 255},
		{"kill -9 $$", "SIGKILL", 137},
		{"kill -15 $$", "SIGTERM", 143},
	} {
		got := wait(t, start(t, tab, sh(c.script)))
		if got.Code != c.code || got.Signal != c.signal {
			t.Errorf("%q: got code %d signal %q, want %d %q", c.script, got.Code, got.Signal, c.code, c.signal)
		}
		if got.WallTime <= 0 || got.MaxRSS <= 0 {
			t.Errorf("%q: no resource usage: %+v", c.script, got)
		}
	}
}

func TestCPUTimeIsTheProcesss(t *testing.T) {
	tab := running(t)
	got := wait(t, start(t, tab, sh("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")))
	if got.UserTime <= 0 {
		t.Errorf("a busy loop used no CPU: %+v", got)
	}
}

func TestStreamsAndEnvironment(t *testing.T) {
	tab := running(t)
	s := sh(`cat; echo "$X $PWD $#"`)
	s.Env = append(s.Env, "X=two words")
	s.Dir = "/usr"
	p, out := startReading(t, tab, s) // stdin is /dev/null
	got, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if want := "two words /usr 0\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	wait(t, p)
}

func TestEmptyEnvironmentIsNotTheAgents(t *testing.T) {
	t.Setenv("AGENT_SECRET", "leak")
	tab := running(t)
	_, out := startReading(t, tab, Spec{Path: "/usr/bin/env", Args: []string{"env"}})
	got, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 0 {
		t.Errorf("environment leaked: %q", got)
	}
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		if err := os.WriteFile(dir+"/"+name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return dir + "/" + name
	}
	tab := running(t)
	for _, c := range []struct{ path, code string }{
		{dir + "/missing", agentproto.CodeNotFound},
		{write("no-interpreter", "#!/nowhere\n", 0o755), agentproto.CodeNotFound},
		{write("not-executable", "#!/bin/sh\n", 0o644), agentproto.CodeNotExecutable},
		{write("no-format", "\x00\x01\x02", 0o755), agentproto.CodeNotExecutable},
		{dir, agentproto.CodeNotExecutable},
	} {
		_, err := tab.Start(Spec{Path: c.path, Args: []string{"x"}})
		var e *agentproto.Error
		if !errors.As(err, &e) || e.Code != c.code {
			t.Errorf("%s: got %v, want code %s", c.path, err, c.code)
		}
	}
	_, err := tab.Start(Spec{Path: "/bin/sh", Args: []string{"sh", strings.Repeat("x", 4<<20)}})
	var e *agentproto.Error
	if !errors.As(err, &e) || e.Code != agentproto.CodeInvalid {
		t.Errorf("4 MiB argument: got %v, want %s", err, agentproto.CodeInvalid)
	}
}

// A pipe's write end that the test made non-blocking must be blocking for the child.
func TestChildPipesBlock(t *testing.T) {
	tab := running(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := sh("dd if=/dev/zero bs=65536 count=32 2>/dev/null")
	s.Stdout = w
	p := start(t, tab, s)
	_ = w.Close()
	n, err := io.Copy(io.Discard, r)
	if err != nil || n != 32*65536 {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if got := wait(t, p); got.Code != 0 {
		t.Errorf("writer ended with %d", got.Code)
	}
}

func TestConcurrentStarts(t *testing.T) {
	tab := running(t)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			p, err := tab.Start(sh("exit " + strconv.Itoa(i%100)))
			if err != nil {
				t.Error(err)
				return
			}
			if got := wait(t, p); got.Code != i%100 {
				t.Errorf("start %d: exit %d", i, got.Code)
			}
		})
	}
	wg.Wait()
	tab.mu.Lock()
	defer tab.mu.Unlock()
	if len(tab.procs) != 0 {
		t.Errorf("%d processes are still registered", len(tab.procs))
	}
}

// A program that ends before Start has returned must not be lost: the registry and the start
// share a lock.
func TestReaperDoesNotOvertakeStart(t *testing.T) {
	tab := running(t)
	for range 300 {
		wait(t, start(t, tab, Spec{Path: "/bin/true", Args: []string{"true"}}))
	}
}

func TestSignalReachesTheGroup(t *testing.T) {
	tab := running(t)
	p, out := startReading(t, tab, sh("sleep 1000 & echo $!; wait"))
	readPid(t, out)
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, p); got.Signal != "SIGKILL" {
		t.Errorf("got %+v", got)
	}
	closedByAll(t, out) // the background sleep held it too
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
}

func TestStopIsPolite(t *testing.T) {
	tab := running(t)
	p, out := startReading(t, tab, sh("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done"))
	if line, _ := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("got %q", line)
	}
	p.Stop(syscall.SIGTERM, limit)
	if got := p.Exit(); got.Code != 3 {
		t.Errorf("got %+v, want the trap's exit 3", got)
	}
	if line, _ := out.ReadString('\n'); line != "bye\n" {
		t.Errorf("got %q", line)
	}
}

func TestStopKillsWhatIgnoresIt(t *testing.T) {
	tab := running(t)
	p, out := startReading(t, tab, sh("trap '' TERM; echo ready; while :; do sleep 1; done"))
	if line, _ := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("got %q", line)
	}
	p.Stop(syscall.SIGTERM, 50*time.Millisecond)
	if got := p.Exit(); got.Signal != "SIGKILL" {
		t.Errorf("got %+v", got)
	}
	closedByAll(t, out)
}

func TestStopWakesStopped(t *testing.T) {
	tab := running(t)
	p := start(t, tab, sh("sleep 1000"))
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.Stop(syscall.SIGTERM, limit)
	if got := p.Exit(); got.Signal != "SIGTERM" {
		t.Errorf("got %+v", got)
	}
}

func TestStopTwiceAndAfterTheEnd(t *testing.T) {
	tab := running(t)
	p := start(t, tab, sh("sleep 1000"))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { p.Stop(syscall.SIGTERM, time.Second) })
	}
	wg.Wait()
	p.Stop(syscall.SIGTERM, time.Second)
}

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]syscall.Signal{
		"SIGTERM": syscall.SIGTERM, "hup": syscall.SIGHUP, "Kill": syscall.SIGKILL, "SIGUSR1": syscall.SIGUSR1,
		"SIGRTMIN": 34, "rtmin+3": 37, "SIGRTMAX-1": 63, "SIGRTMIN+30": 64,
		"SIGRTMIN+31": 0, "SIGRTMIN-1": 0, "SIGRTMAX+1": 0, "SIGRTMIN+": 0, "SIGRTMIN3": 0, "SIGRTMIN+-1": 0,
		"": 0, "9": 0, "SIGNOPE": 0, strings.Repeat("A", 10000): 0,
	} {
		got, err := ParseSignal(name)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("%.20q: got %v, %v", name, got, err)
		}
	}
}

func BenchmarkSpawn(b *testing.B) {
	b.Run("Table", func(b *testing.B) {
		tab := New()
		ctx := b.Context()
		go tab.Run(ctx)
		for b.Loop() {
			p, err := tab.Start(Spec{Path: "/bin/true", Args: []string{"true"}})
			if err != nil {
				b.Fatal(err)
			}
			<-p.Done()
		}
	})
	b.Run("os.StartProcess", func(b *testing.B) {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer null.Close()
		attr := &os.ProcAttr{Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setsid: true}}
		for b.Loop() {
			p, err := os.StartProcess("/bin/true", []string{"true"}, attr)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := p.Wait(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
